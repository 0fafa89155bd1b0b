# what: a crash is looked at with gdb, calls are listed with strace, memory is checked with a sanitizer
# needs: gcc gdb strace
## step: Build
printf '#include <stdlib.h>\nint main(int n, char **v) { char *p = malloc(8); p[0] = n; free(p); return n > 1 ? *(volatile int *)0 : 0; }\n' > crash.c
gcc -g -O0 -o crash crash.c && gcc -g -fsanitize=address -o checked crash.c
## step: Debug
gdb -nx -q -batch -ex run -ex bt --args ./crash 1 > $RUNNER_TEMP/bt 2>&1 && grep -q main $RUNNER_TEMP/bt
strace -f -o $RUNNER_TEMP/calls sh -c './crash; true' && grep -q exit_group $RUNNER_TEMP/calls
ASAN_OPTIONS=detect_leaks=1 ./checked
sleep 60 & strace -p $! -o $RUNNER_TEMP/attached & sleep 0.3 && kill %1 && wait %2
