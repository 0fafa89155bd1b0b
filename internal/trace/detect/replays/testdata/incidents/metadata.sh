# incident: Capital One, 2019; T1552.005
# what: a step asks the cloud for the credentials of the machine's role
# rule: cloud-metadata-access
## step: Test
role=$(curl -s --max-time 5 http://169.254.169.254/latest/meta-data/iam/security-credentials/)
curl -s --max-time 5 "http://169.254.169.254/latest/meta-data/iam/security-credentials/$role" > /dev/null
