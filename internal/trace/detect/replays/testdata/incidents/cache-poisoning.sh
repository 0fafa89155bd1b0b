# incident: TanStack, May 2026; Ultralytics, December 2024
# what: the test of a pull request puts its own content into the caches that the release will be built from
# rule: cache-poisoned
## step: Test
mkdir -p $HOME/.npm/_cacache/content-v2/sha512/aa/bb $HOME/go/pkg/mod/example.com/x@v1.0.0
cat > $RUNNER_TEMP/poison.py <<'X'
import os
home = os.environ['HOME']
open(home + '/.npm/_cacache/content-v2/sha512/aa/bb/cc', 'w').write('not the package')
X
python3 $RUNNER_TEMP/poison.py
cp main.c $HOME/go/pkg/mod/example.com/x@v1.0.0/x.go
