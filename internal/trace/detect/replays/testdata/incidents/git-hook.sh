# incident: T1546; git hooks of Contagious Interview, 2025
# what: code of a repository leaves a hook that runs with the next use of git
# rule: git-hook-written
## step: Test
cat > $RUNNER_TEMP/setup.py <<'Y'
import os
with open('.git/hooks/post-commit', 'w') as f:
    f.write('#!/bin/sh\ntrue\n')
os.chmod('.git/hooks/post-commit', 0o755)
Y
python3 $RUNNER_TEMP/setup.py
