# what: an image is built by Docker's daemon, with BuildKit and without, and run; a container is a service for the tests
# needs: busybox containerd runc iptables
# engine: docker
## step: Build
mkdir -p ctx && cp $(command -v busybox) ctx/sh && cp Makefile ctx/
printf 'FROM localhost/base:1\nCOPY Makefile /src/Makefile\nRUN cat /src/Makefile > /built && mkdir -p /work/deep && touch /work/deep/file\nCMD ["cat", "/built"]\n' > ctx/Dockerfile
DOCKER_BUILDKIT=1 docker build -q -t app:kit ctx > /dev/null
DOCKER_BUILDKIT=0 docker build -q -t app:classic ctx > /dev/null
## step: Service
docker network create tests > /dev/null
docker run -d --name web --network tests -p 127.0.0.1:8097:80 localhost/base:1 nc -ll -p 80 -e echo hello > /dev/null
for i in $(seq 50); do [ "$(timeout 5 busybox nc 127.0.0.1 8097 < /dev/null)" = hello ] && break; sleep 0.1; done
docker run --rm --network tests localhost/base:1 sh -c 'nc -w 5 web 80 < /dev/null' | grep -q hello
docker exec web sh -c 'echo more > /tmp/more'
docker rm -f web > /dev/null && docker network rm tests > /dev/null
## step: Test
docker run --rm -v $PWD:/src -w /src app:kit sh -c 'cat Makefile > /tmp/x && cat /built' | grep -q gcc
docker run --rm --user 1001 -e CI=true app:classic | grep -q gcc
docker save app:kit > $RUNNER_TEMP/app.tar && docker rmi -f app:kit app:classic > /dev/null
