# incident: Shai-Hulud worm, September 2025
# what: a script writes a workflow that will send the repository's secrets
# rule: workflow-changed
## step: Test
cat > $RUNNER_TEMP/bundle.js <<'X'
require('fs').writeFileSync('.github/workflows/discussion.yaml', 'on: discussion\n');
X
node $RUNNER_TEMP/bundle.js
