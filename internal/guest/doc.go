// Package guest is what a virtual machine and its host say to each other without a
// network: two virtio-serial ports, the guest's first process, and the host's end.
//
// The first port (BootPort) carries one line, Boot, with all that a machine is born
// with: the token, a seed for its random numbers and the time. The second
// (AgentPort) carries streams, opened by the guest and served by the host: the
// stream named ControlPlane is the agent's HTTP, any other is a connection to a
// host:port that the host may refuse. Either end may be replaced at any moment – the
// control plane is killed and started again – and frames are made so that the new
// one understands what it reads: see frame.go and session.go.
//
// Init is the first process of a guest whose image is made by `muster image build`.
//
// It owns the ports and their protocol. It knows neither the agent's routes nor what
// may be reached: those are decided by internal/agent, which uses it inside the
// machine, and provider/qemu, which uses it outside. It imports the standard library
// only.
package guest
