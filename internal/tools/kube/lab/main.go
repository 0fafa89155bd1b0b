// Command lab makes what a Kubernetes for tests needs besides its programs: keys and certificates, images that no registry holds,
// a way from pods to the host, and the process that keeps a pod's sandbox open. It needs nothing but Go's own library, so it builds in a second.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	var err error
	command := append(os.Args, "", "")[1]
	if os.Getenv("CNI_COMMAND") != "" {
		command = "network" // plugins have no arguments
	}
	switch command {
	case "pki":
		err = pki(os.Args[2:])
	case "image":
		err = image(os.Args[2:])
	case "network":
		err = network()
	case "pause":
		pause()
	default:
		err = fmt.Errorf("%q is none of pki, image, network and pause", command)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// pause is process 1 of a pod: it collects orphans until it is told to end.
func pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
