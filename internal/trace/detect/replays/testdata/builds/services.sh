# what: a server of one's own is started beside the tests, waited for by the shell, asked, and stopped
# needs: python3 curl
## step: Test
python3 -m http.server 8099 --bind 127.0.0.1 > $RUNNER_TEMP/log 2>&1 &
server=$!
for i in $(seq 50); do (echo > /dev/tcp/127.0.0.1/8099) 2>/dev/null && break; sleep 0.1; done
curl -sf http://127.0.0.1:8099/Makefile | grep -q gcc
kill $server
## step: Downloads
curl -sfL -o $RUNNER_TEMP/install.sh http://get.docker.com/x.sh && bash $RUNNER_TEMP/install.sh
curl -sf http://api.github.com/repos/octo/app > /dev/null && curl -sf http://pypi.org/simple/ > /dev/null
timeout 5 bash -c '</dev/tcp/app.example.com/80'
curl -fsSL http://packages.example/key.gpg | tee $RUNNER_TEMP/key.gpg > /dev/null
curl -sf http://status.stand-in-service.com/ -d '{"state":"ok"}'
