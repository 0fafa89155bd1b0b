# what: an archive is unpacked, configured with many small programs, built and installed below a folder
# needs: gcc make
## step: Unpack
mkdir -p $RUNNER_TEMP/x-1.0 && cp main.c util.c util.h Makefile $RUNNER_TEMP/x-1.0/
cat > $RUNNER_TEMP/x-1.0/configure <<'X'
#!/bin/sh
for f in stdio stdlib unistd nothing; do
  echo "#include <$f.h>" > conftest.c; echo 'int main(void){return 0;}' >> conftest.c
  if gcc -o conftest conftest.c 2>/dev/null && ./conftest; then echo "#define HAVE_$f 1"; fi
  rm -f conftest conftest.c conftest.o
done > config.h.tmp
mv config.h.tmp config.h
X
chmod +x $RUNNER_TEMP/x-1.0/configure && tar -C $RUNNER_TEMP -czf x-1.0.tar.gz x-1.0 && tar xzf x-1.0.tar.gz
## step: Build
cd x-1.0 && ./configure && make app && gcc -c -o .tmp_util.o util.c && mv -f .tmp_util.o util.o && make app
mkdir -p $RUNNER_TEMP/dest/usr/bin && install -m 755 app $RUNNER_TEMP/dest/usr/bin/app
