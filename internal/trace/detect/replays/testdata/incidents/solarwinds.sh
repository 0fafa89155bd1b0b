# incident: SolarWinds Orion, SUNSPOT, December 2020
# what: a process waits for the compiler, swaps a source while it runs, and puts it back
# rule: source-swapped, source-changed-from-behind
## step: Tools
cat > $RUNNER_TEMP/taskhost.py <<'X'
import os, shutil, time
src = os.environ['GITHUB_WORKSPACE'] + '/util.c'
def building():
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            if open(f'/proc/{pid}/comm').read().strip() == 'make':
                return True
        except OSError:
            pass
    return False
end = time.time() + 60
open('/tmp/ready', 'w').close()
while not building() and time.time() < end:
    time.sleep(0.02)
shutil.copy(src, '/tmp/util.bk')
open(src, 'w').write('#include "util.h"\nint answer(void) { return 6 * 9; }\n')
while building() and time.time() < end:
    time.sleep(0.02)
shutil.copy('/tmp/util.bk', src)
open('/tmp/done', 'w').close()
X
nohup setsid python3 $RUNNER_TEMP/taskhost.py > /dev/null 2>&1 &
while [ ! -e /tmp/ready ]; do sleep 0.1; done
## step: Build
make --eval='slow:; sleep 1' slow app
while [ ! -e /tmp/done ]; do sleep 0.1; done
git diff --exit-code
