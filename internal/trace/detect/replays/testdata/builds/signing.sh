# what: a key is made, commits and a tag are signed with it by gpg and by ssh, and checked
# needs: gpg ssh-keygen git
## step: Key
export GNUPGHOME=$HOME/.gnupg && mkdir -m 700 $GNUPGHOME
gpg --batch --quiet --passphrase '' --quick-gen-key 'release <release@example.com>' ed25519 sign never
rm -f $HOME/.ssh/id_ed25519 && ssh-keygen -q -t ed25519 -N '' -f $HOME/.ssh/id_ed25519
## step: Release
git config user.signingkey release@example.com
git commit -q --allow-empty -S -m release && git tag -s v1 -m v1 && git verify-tag v1 && git verify-commit HEAD
gpg --batch --quiet --armor --detach-sign -o $RUNNER_TEMP/Makefile.asc Makefile && gpg --verify $RUNNER_TEMP/Makefile.asc Makefile
git -c gpg.format=ssh -c user.signingkey=$HOME/.ssh/id_ed25519.pub tag -s v2 -m v2
sha256sum Makefile | ssh-keygen -q -Y sign -f $HOME/.ssh/id_ed25519 -n file > $RUNNER_TEMP/Makefile.sig
gpgconf --kill all
