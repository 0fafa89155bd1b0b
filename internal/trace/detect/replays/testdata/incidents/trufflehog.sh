# incident: Shai-Hulud worm, September 2025; Shai-Hulud 2.0, November 2025
# what: the script of a package asks whether it may be root, and looks for secrets by a scanner that it brings along
# rule: secret-scanner-in-install, sudo-in-install
## step: Install
mkdir -p $RUNNER_TEMP/worm $RUNNER_TEMP/bin && ln $PROP $RUNNER_TEMP/bin/trufflehog && ln -s $PROP $RUNNER_TEMP/bin/sudo
cd $RUNNER_TEMP/worm
cat > package.json <<'Y'
{"name": "worm", "version": "1.0.0", "scripts": {"preinstall": "node setup.js"}}
Y
cat > setup.js <<'Y'
const {spawnSync} = require('child_process'), env = {...process.env, MUSTER_REPLAY_ROLE: 'prop'};
spawnSync('sudo', ['-n', 'true'], {env});
spawnSync('trufflehog', ['filesystem', '/home', '--json'], {env});
Y
export PATH=$RUNNER_TEMP/bin:$PATH
cd $GITHUB_WORKSPACE && npm install --install-links $RUNNER_TEMP/worm
