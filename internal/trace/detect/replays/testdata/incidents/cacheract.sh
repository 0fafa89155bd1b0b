# incident: Cacheract, 2024; reviewdog/action-setup, March 2025 (CVE-2025-30154)
# what: a step changes the code of an action that a later step will run
# rule: action-changed, tool-cache-changed
## step: Test
mkdir -p $RUNNER_TEMP/../_actions/octo/publish/v1/dist
echo '// nothing' | tee $RUNNER_TEMP/../_actions/octo/publish/v1/dist/index.js > /dev/null
cp /opt/hostedtoolcache/tool/1.0/x64/bin/tool /tmp/tool && cp /tmp/tool /opt/hostedtoolcache/tool/1.0/x64/bin/tool
