# incident: T1036, masquerading
# what: tools under other names: a copy that is called ps reads an environment, cat is called git for a key, and tests that npm runs put a file into a cache
# rule: environ-read, credential-file-read, cache-poisoned
# needs: npm
## step: Test
cp /bin/cat /tmp/ps && /tmp/ps /proc/$WORKER/environ > /dev/null
(exec -a git cat $HOME/.aws/credentials) > /dev/null
mkdir -p $HOME/go/pkg/mod/example.com/x@v1.0.0
echo '{"name":"app","version":"1.0.0","scripts":{"test":"cp Makefile $HOME/go/pkg/mod/example.com/x@v1.0.0/"}}' > package.json
npm test
