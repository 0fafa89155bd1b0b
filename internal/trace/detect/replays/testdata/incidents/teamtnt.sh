# incident: TeamTNT, August 2020; T1552.001
# what: a script takes the cloud's credentials from where they lie
# rule: credential-file-read
## step: Test
tar czf $RUNNER_TEMP/all.tgz --absolute-names $HOME/.aws $HOME/.docker
base64 -w0 $HOME/.aws/credentials > /dev/null
