# incident: T1620 and T1027.011, programs without files
# what: a script puts a program together in memory and runs it under the name of a thread of the kernel
# rule: program-without-file
## step: Test
cat > $RUNNER_TEMP/loader.py <<'Y'
import os
fd = os.memfd_create('kworker')
with open(os.environ['PROP'], 'rb') as f:
    os.write(fd, f.read())
os.execve(fd, ['[kworker/0:1]'], {'MUSTER_REPLAY_ROLE': 'prop'})
Y
python3 $RUNNER_TEMP/loader.py
