# incident: LiteLLM on PyPI, March 2026
# what: a file that Python loads at every start leaves a service behind that polls for more
# rule: persistence
## step: Test
mkdir -p $RUNNER_TEMP/site $HOME/.config/systemd/user
cat > $RUNNER_TEMP/site/sitecustomize.py <<'X'
import os
open(os.environ['HOME'] + '/.config/systemd/user/sysmon.service', 'w').write('[Service]\nExecStart=/bin/true\n')
X
PYTHONPATH=$RUNNER_TEMP/site python3 -c 'print("tests")'
