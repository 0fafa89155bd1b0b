# incident: xz-utils, March 2024 (CVE-2024-3094)
# what: a script from the test data puts its own object in the place of one that was compiled
# rule: object-tampered
## step: Build
make main.o util.o
printf 'int answer(void) { return 43; }\n' > $RUNNER_TEMP/good-large.c
gcc -c -o $RUNNER_TEMP/good-large.o $RUNNER_TEMP/good-large.c
cp $RUNNER_TEMP/good-large.o util.o
gcc -o app main.o util.o
