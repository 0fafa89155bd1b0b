package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/types/known/durationpb"
)

// retention is how long a finished workflow's history is kept. The books live in
// the store, so history is for operators only (reference/temporal.md).
const retention = 3 * 24 * time.Hour

// Config says which engine to open.
type Config struct {
	// Address of an external Temporal frontend, host:port. Empty: embedded.
	Address string
	// Namespace that the workflows live in; created if it does not exist.
	Namespace string
	// Dir holds the embedded engine's file. Unused with Address.
	Dir string
	// TLS for an external cluster; nil means plain text, which Open allows for
	// loopback addresses only.
	TLS *tls.Config
	// APIKey for an external cluster that wants one.
	APIKey string
	// Sealer encrypts payloads. Required.
	Sealer Sealer
	// Interceptors are added to the client, and through it to every worker.
	Interceptors []interceptor.ClientInterceptor
	Logger       *slog.Logger
}

// Engine is an open engine. Its methods are safe for concurrent use.
type Engine struct {
	client   client.Client
	embedded *embedded
	address  string
}

// Open starts the embedded engine or dials the external one, and returns when
// the namespace can be used. The caller closes it after its workers.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Sealer == nil {
		return nil, errors.New("open engine: no sealer: payloads would be in clear")
	}
	e := &Engine{address: cfg.Address}
	if cfg.Address == "" {
		emb, err := startEmbedded(filepath.Join(cfg.Dir, "engine.db"), cfg.Namespace, cfg.Logger)
		if err != nil {
			return nil, fmt.Errorf("start embedded engine: %w", err)
		}
		e.embedded, e.address = emb, emb.address
	} else if cfg.TLS == nil && !loopback(cfg.Address) {
		return nil, fmt.Errorf("engine address %s is not on this host and has no TLS: set engine.tls", cfg.Address)
	}
	c, err := dial(ctx, cfg, e.address)
	if err != nil {
		e.stop()
		return nil, fmt.Errorf("reach engine at %s: %w", e.address, err)
	}
	e.client = c
	return e, nil
}

func dial(ctx context.Context, cfg Config, address string) (client.Client, error) {
	data := converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), codec{cfg.Sealer})
	opts := client.Options{
		HostPort:      address,
		Namespace:     cfg.Namespace,
		Logger:        sdklog.NewStructuredLogger(cfg.Logger.With("component", "engine-sdk")),
		DataConverter: data,
		// Failure messages and stack traces may quote what a provider said; they
		// are encrypted like payloads.
		FailureConverter:  temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{DataConverter: data, EncodeCommonAttributes: true}),
		Interceptors:      cfg.Interceptors,
		ConnectionOptions: client.ConnectionOptions{TLS: cfg.TLS},
	}
	if cfg.APIKey != "" {
		opts.Credentials = client.NewAPIKeyStaticCredentials(cfg.APIKey)
	}
	c, err := client.DialContext(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := ensureNamespace(ctx, c, cfg.Namespace); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// ensureNamespace registers the namespace where it is missing and we may. An
// external cluster that forbids it, and has the namespace, is fine.
func ensureNamespace(ctx context.Context, c client.Client, name string) error {
	_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: name})
	if _, missing := errors.AsType[*serviceerror.NamespaceNotFound](err); !missing {
		return err
	}
	_, err = c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace:                        name,
		WorkflowExecutionRetentionPeriod: durationpb.New(retention),
	})
	if _, raced := errors.AsType[*serviceerror.NamespaceAlreadyExists](err); err != nil && !raced {
		return err
	}
	return awaitNamespace(ctx, c, name)
}

// namespaceTimeout is how long a cluster may take to know a namespace everywhere:
// its frontends look for new ones every few seconds.
const namespaceTimeout = 30 * time.Second

// awaitNamespace returns when work in a new namespace can begin.
func awaitNamespace(ctx context.Context, c client.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, namespaceTimeout)
	defer cancel()
	for {
		_, err := c.DescribeWorkflowExecution(ctx, "no such workflow", "")
		if _, missing := errors.AsType[*serviceerror.NamespaceNotFound](err); !missing {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("namespace %s was registered and is not known yet: %w", name, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Client is the way to the engine. It is closed by Close, not by the caller.
func (e *Engine) Client() client.Client { return e.client }

// Address is where the engine's frontend listens, host:port, for the Temporal
// CLI and UI.
func (e *Engine) Address() string { return e.address }

// Embedded reports whether the engine runs in this process.
func (e *Engine) Embedded() bool { return e.embedded != nil }

// Close closes the client and stops the embedded server, if any. Workers must
// have been stopped before.
func (e *Engine) Close() {
	e.client.Close()
	e.stop()
}

func (e *Engine) stop() {
	if e.embedded != nil {
		e.embedded.stop()
	}
}
