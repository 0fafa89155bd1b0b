# incident: T1003.007; keys out of the memory of ssh-agent, 2014
# what: a script reads the memory of the agent that holds the deploy key
# rule: process-memory-read
# needs: ssh-agent
## step: Key
ssh-agent -s > $RUNNER_TEMP/agent
## step: Test
. $RUNNER_TEMP/agent
python3 - $SSH_AGENT_PID <<'Y'
import sys
with open(f'/proc/{sys.argv[1]}/maps') as maps, open(f'/proc/{sys.argv[1]}/mem', 'rb', 0) as mem:
    line = next(l for l in maps if '[heap]' in l or ' rw-p ' in l)
    mem.seek(int(line.split('-')[0], 16))
    mem.read(16)
Y
kill $SSH_AGENT_PID
