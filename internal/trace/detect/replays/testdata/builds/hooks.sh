# what: hooks of the project are set up, a cache is brought back and saved, coverage and a report are packed
# needs: git tar python3
## step: Hooks
mkdir -p .husky && printf '#!/bin/sh\nmake -n > /dev/null\n' > .husky/pre-commit && chmod +x .husky/pre-commit && git config core.hooksPath .husky
git add -A && git commit -qm hooks
## step: Save
mkdir -p $HOME/.cache/go-build/00 $HOME/.npm && tar czf $RUNNER_TEMP/cache.tgz -C $HOME .npm
## step: Restore cache
## uses: actions/cache@v4
tar xzf $RUNNER_TEMP/cache.tgz -C $HOME
## step: Report
env > $RUNNER_TEMP/env && sort $RUNNER_TEMP/env | grep -v SECRET | head -3
echo "version=$(git describe --always)" >> $GITHUB_ENV
base64 Makefile | base64 -d | cmp - Makefile && printenv PATH | tr : '\n' | wc -l
python3 - <<'Y'
import json, os, subprocess
head = subprocess.run(['git', 'rev-parse', 'HEAD'], capture_output=True, text=True, check=True).stdout.strip()
json.dump({'head': head, 'ci': os.environ.get('CI')}, open('report.json', 'w'))
Y
grep -rn 'answer' --include=*.c . > /dev/null && git config --get remote.origin.url
