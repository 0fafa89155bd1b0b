package bpf

//go:generate go tool bpf2go -no-global-types -tags linux -target amd64,arm64 -cflags "-O2 -mcpu=v3 -Wall -Werror -Wno-unused-variable" network c/net.c
