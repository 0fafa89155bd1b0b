# incident: Variables for later steps, set by packages (GitHub's change of set-env, 2020; T1574.006)
# what: the script of a package has itself loaded into all later steps
# rule: runner-command-file
## step: Install
mkdir -p $RUNNER_TEMP/inject && cd $RUNNER_TEMP/inject
cat > package.json <<'X'
{"name": "inject", "version": "1.0.0", "scripts": {"postinstall": "echo NOTHING=1 >> $GITHUB_ENV"}}
X
cd $GITHUB_WORKSPACE && npm install --install-links $RUNNER_TEMP/inject
