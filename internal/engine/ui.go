package engine

import (
	"context"
	"fmt"
	"net"
	"strconv"

	ui "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	"github.com/temporalio/ui-server/v2/server/server_options"
)

// UI is Temporal's own web interface on an engine: every workflow with its
// history, for operators. It reads only, since it asks nobody for a password, and
// it shows payloads as they are stored, encrypted.
type UI struct {
	server *ui.Server
	ended  chan error
}

// StartUI serves the web interface of the engine at address on listen, a
// loopback host:port. The caller stops it before it closes the engine.
func StartUI(ctx context.Context, listen, address, namespace string) (*UI, error) {
	host, portText, err := net.SplitHostPort(listen)
	if err != nil || !loopback(listen) {
		return nil, fmt.Errorf("engine UI on %q: it asks for no password, so give it a loopback host:port", listen)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("engine UI on %q: the port is not a number", listen)
	}
	// The UI server reports a busy port only by ending; ask first.
	probe, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("engine UI: %w", err)
	}
	if err := probe.Close(); err != nil {
		return nil, fmt.Errorf("engine UI: %w", err)
	}
	u := &UI{ended: make(chan error, 1), server: ui.NewServer(server_options.WithConfigProvider(&uiconfig.Config{
		TemporalGRPCAddress: address, Host: host, Port: port, EnableUI: true,
		DefaultNamespace: namespace, DisableWriteActions: true, HideLogs: true,
		CORS: uiconfig.CORS{AllowOrigins: []string{"http://" + listen}},
	}))}
	go func() { u.ended <- u.server.Start() }()
	return u, nil
}

// Stop ends the interface and waits for it.
func (u *UI) Stop() {
	u.server.Stop()
	<-u.ended //nolint:errcheck // it was told to end
}
