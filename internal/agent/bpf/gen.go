package bpf

// The objects are committed, so that a build needs no compiler for C. They come out the
// same from the same clang; internal/tools/generate.sh --check compares.

//go:generate go tool bpf2go -no-global-types -tags linux -target amd64,arm64 -cflags "-O2 -mcpu=v3 -Wall -Werror -Wno-unused-variable" record c/record.c
