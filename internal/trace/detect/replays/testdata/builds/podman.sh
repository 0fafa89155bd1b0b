# what: an image is built from a folder, by an engine without a daemon, saved and looked into
# needs: podman busybox
## step: Build
mount -t tmpfs none /var/lib/containers # what it keeps of images ends with the job
mkdir -p ctx && cp $(command -v busybox) ctx/sh
printf 'FROM scratch\nCOPY sh /bin/sh\nRUN ["/bin/sh", "-c", "echo built > /built; cat /proc/self/status > /dev/null"]\nCMD ["/built"]\n' > ctx/Containerfile
printf '[storage]\ndriver = "vfs"\ngraphroot = "/opt/store"\nrunroot = "/run/store"\n' > /etc/containers/storage.conf
podman build -q --isolation chroot -t app ctx > /dev/null
## step: Save
podman save -q app -o $RUNNER_TEMP/app.tar && tar tf $RUNNER_TEMP/app.tar > /dev/null
