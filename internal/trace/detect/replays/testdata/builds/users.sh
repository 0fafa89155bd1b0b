# what: steps work as another user, in namespaces of their own, with fewer rights and with limits
# needs: su runuser setpriv unshare chroot busybox
## step: Test
mkdir -p /opt/work && cp main.c util.c util.h Makefile /opt/work && chown -R nobody /opt/work
su -s /bin/sh nobody -c 'cd /opt/work && make test && make clean'
runuser -u nobody -- sh -c 'cd /opt/work && make app'
setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs sh -c 'id -un'
unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /mnt && touch /mnt/x && id -u'
unshare --fork --pid --mount-proc sh -c 'ps -e > /dev/null; ls /proc > /dev/null'
(ulimit -n 256; nice -n 5 make -C /opt/work test)
mkdir -p $RUNNER_TEMP/root/bin && cp $(command -v busybox) $RUNNER_TEMP/root/bin/sh && chroot $RUNNER_TEMP/root /bin/sh -c 'echo inside' || true
