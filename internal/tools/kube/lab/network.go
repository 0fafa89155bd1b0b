package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// hostAddress is a loopback address of the node that pods reach: what listens there takes no words
// about being open to the network, and is. The kernel routes such addresses where it is told to; a pod
// keeps 127.0.0.0/16 for itself.
const hostAddress = "127.77.0.1"

// network is a plugin of the container network interface, chained after the bridge: it lets the pod
// reach hostAddress through its gateway.
func network() error {
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		fmt.Println(`{"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0"]}`)
		return nil
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var in struct {
		Version string          `json:"cniVersion"`
		Result  json.RawMessage `json:"prevResult"`
		Gateway string          `json:"gateway"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	if os.Getenv("CNI_COMMAND") != "ADD" {
		return nil
	}
	// A second view of /sys and /proc is of no use: the kernel's settings of this network are in the task's own /proc.
	script := `echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
ip route del local 127.0.0.0/8 dev lo table local
ip route add local 127.0.0.0/16 dev lo table local
ip route add ` + hostAddress + `/32 via ` + in.Gateway + ` dev "$CNI_IFNAME"`
	cmd := exec.Command("nsenter", "--net="+os.Getenv("CNI_NETNS"), "sh", "-ec", script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	_, err = os.Stdout.Write(in.Result)
	return err
}
