# what: make with gcc, a static library, strip, and a second build after a change that git brings
# needs: gcc make
## step: Build
make app test
ar rcs libutil.a util.o && ranlib libutil.a && strip -g util.o
## step: Again
printf '#include "util.h"\nint answer(void) { return 21 * 2; }\n' > util.c
make test && git checkout -q util.c && touch util.c && make test && make clean
## step: Release
sed -i 's/42/40 + 2/' util.c && make test && sed -i 's/40 + 2/42/' util.c
