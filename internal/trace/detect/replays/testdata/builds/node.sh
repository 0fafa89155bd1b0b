# what: npm install of local packages, one with scripts, and of one from a registry; tests
# needs: npm node
## step: Install
mkdir -p packages/one packages/two
echo '{"name":"one","version":"1.0.0","scripts":{"postinstall":"node build.js"}}' > packages/one/package.json
echo 'require("fs").writeFileSync("built.js", "module.exports = 1\n")' > packages/one/build.js
echo '{"name":"two","version":"1.0.0"}' > packages/two/package.json
echo '{"name":"app","version":"1.0.0","private":true,"scripts":{"test":"node --test","build":"node -e \"console.log(1)\""},"dependencies":{"one":"file:packages/one","two":"file:packages/two"}}' > package.json
npm install --install-links
npm install --registry http://packages.example tiny
## step: Test
mkdir -p test && printf 'const t = require("node:test"); t("one", () => { require("node:assert").equal(require("one/built.js"), 1) });\n' > test/one.test.js
npm run build && npm test
## step: Again
rm -rf node_modules && npm ci --registry http://packages.example --install-links
