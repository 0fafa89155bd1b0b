package bpf

func machineTricks() []trick { return nil }
