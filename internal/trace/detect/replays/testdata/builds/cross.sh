# what: sources are generated and compiled with clang and gcc for other machines, objects are moved, stripped and archived
# needs: clang gcc make python3 ar
## step: Generate
cat > gen.py <<'Y'
open("table.c", "w").write("int table[] = {%s};\n" % ", ".join(map(str, range(64))))
Y
python3 gen.py
git add gen.py table.c && git commit -qm table && git checkout -q --detach && git rm -q gen.py table.c && git checkout -q -f main
printf 'table.c: gen.py\n\tpython3 gen.py\ntable.o: table.c\n\tgcc -c -o $@ $<\n' > gen.mk && make -B -f gen.mk table.o && make -B -f gen.mk table.c && git diff --exit-code
sed 's/answer/reply/' util.c > reply.c && cmp -s util.c reply.c || cp reply.c generated.c
printf '%%.s: %%.c\n\tgcc -S -o $@ $<\n' > rules.mk
## step: Build
mkdir -p build && for t in x86_64-linux-gnu aarch64-linux-gnu riscv64-linux-gnu; do clang --target=$t -ffreestanding -c -o build/table-$t.o table.c; done
make -f rules.mk table.s && gcc -c -o build/table.o table.s && gcc -O2 -flto -c util.c -o build/util.o
mv build/table.o build/final.o && strip -g build/final.o && objcopy --strip-unneeded build/final.o build/small.o && ar rcs build/libtable.a build/final.o build/util.o
install -D -m 644 build/libtable.a $RUNNER_TEMP/dest/lib/libtable.a && cp -a build $RUNNER_TEMP/artifacts
## step: Again
echo '// changed by the step' >> util.c && make test && git checkout -q util.c && make -B test
