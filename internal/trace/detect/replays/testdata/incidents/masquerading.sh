# incident: T1036, masquerading
# what: tools under other names: a copy that is called ps reads an environment, cat is called git for a key, a key gets a further name, and tests that npm runs put a file into a cache
# rule: environ-read, credential-file-read, credential-file-linked, cache-poisoned
# needs: npm
## step: Test
cp /bin/cat /tmp/ps && /tmp/ps /proc/$WORKER/environ > /dev/null
(exec -a git cat $HOME/.aws/credentials) > /dev/null
ln $HOME/.ssh/id_ed25519 $HOME/notes && cat $HOME/notes > /dev/null
mkdir -p $HOME/go/pkg/mod/example.com/x@v1.0.0
echo '{"name":"app","version":"1.0.0","scripts":{"test":"cp Makefile $HOME/go/pkg/mod/example.com/x@v1.0.0/"}}' > package.json
npm test
