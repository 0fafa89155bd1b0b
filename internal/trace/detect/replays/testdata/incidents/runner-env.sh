# incident: Self-hosted runner takeover of PyTorch, 2023; T1574.007
# what: a job sets a variable and a script for all later jobs in the runner's own folder
# rule: runner-changed
## step: Test
echo NOTHING=1 >> ../../../.env
