# incident: T1611, escape to the machine by the engine's socket
# what: a step asks the container engine for what runs, without its tools
# rule: container-socket
## step: Test
curl -s --unix-socket /var/run/docker.sock http://x/containers/json
