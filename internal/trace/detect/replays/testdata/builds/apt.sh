# what: a package of the system is looked for, its installation simulated, an archive made and looked into
# needs: apt-get dpkg-deb
## step: Install
apt-cache policy make > /dev/null && apt-get -s install -y make gcc && dpkg -l make
## step: Package
mkdir -p d/DEBIAN d/usr/bin && cp /bin/true d/usr/bin/nothing
printf 'Package: nothing\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.com>\nDescription: nothing\n' > d/DEBIAN/control
dpkg-deb --build d nothing.deb && dpkg-deb -I nothing.deb && dpkg-deb -x nothing.deb out
