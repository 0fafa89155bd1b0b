# what: archives are packed, compressed, checked and unpacked
# needs: tar gzip
## step: Pack
tar czf $RUNNER_TEMP/src.tgz . && sha256sum $RUNNER_TEMP/src.tgz > $RUNNER_TEMP/sums && sha256sum -c $RUNNER_TEMP/sums
tar cf - . | gzip -9 | base64 > $RUNNER_TEMP/src.b64
mkdir -p $RUNNER_TEMP/out && base64 -d $RUNNER_TEMP/src.b64 | tar xzf - -C $RUNNER_TEMP/out
find . -name '*.c' -print0 | xargs -0 grep -l answer | sort | tee $RUNNER_TEMP/list
cp -r . $RUNNER_TEMP/copy && diff -r . $RUNNER_TEMP/copy
env | sort > $RUNNER_TEMP/env.txt
