package bpf

// netOptions are the options of the network's programs.
type netOptions struct{}
