# incident: Self-hosted runner takeover of PyTorch, 2023
# what: a job copies the key with which the runner speaks to GitHub
# rule: runner-credentials-read
## step: Build
cat ../../../.credentials_rsaparams > /dev/null
