# incident: Shai-Hulud 2.0, November 2025
# what: a worm registers the machine as a runner of its own and leaves it running behind the job
# rule: runner-installed, process-outlives-job
## step: Test
mkdir -p $HOME/.dev-env && cd $HOME/.dev-env
echo 'echo configured' > config.sh
RUNNER_ALLOW_RUNASROOT=1 bash ./config.sh --url https://github.com/a/b --unattended --token none --name SHA1HULUD
(RUNNER_TRACKING_ID=0 setsid sleep 60 > /dev/null 2>&1 &)
sleep 0.3
