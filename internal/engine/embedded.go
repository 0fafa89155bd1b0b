package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/metrics"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	sqliteschema "go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The packages of go.temporal.io/server promise no stable API for embedding, so
// all use of them is in this file and in log.go; embedded_test.go starts a
// server, kills it and starts it again on the same file.

const clusterName = "active"

type embedded struct {
	server  temporal.Server
	address string
	lock    *os.File
}

// startEmbedded runs a Temporal server on the SQLite file at path, which is made
// with its schema if it is not there. Two processes on one file would corrupt
// each other's timers, so a lock file beside it refuses the second.
func startEmbedded(path, namespace string, logger *slog.Logger) (*embedded, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	e := &embedded{lock: lock}
	sqlConfig := &config.SQL{
		PluginName:   sqliteplugin.PluginName,
		DatabaseName: path,
		// One connection measured faster than four (reference/temporal.md).
		MaxConns: 1, MaxIdleConns: 1,
		ConnectAttributes: map[string]string{
			"mode": "rwc", "journal_mode": "wal", "synchronous": "2", "busy_timeout": "10000",
		},
	}
	if err := prepareFile(path, namespace, sqlConfig); err != nil {
		e.unlock()
		return nil, err
	}
	ports, release, err := reservePorts(4)
	if err != nil {
		e.unlock()
		return nil, err
	}
	defer release()
	e.address = fmt.Sprintf("127.0.0.1:%d", ports[0])
	e.server, err = temporal.NewServer(serverOptions(sqlConfig, ports, logger)...)
	if err == nil {
		err = e.server.Start()
	}
	if err != nil {
		e.unlock()
		return nil, err
	}
	return e, nil
}

func prepareFile(path, namespace string, sqlConfig *config.SQL) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		// The schema is not laid in one transaction: a kill in the middle would
		// leave a file that never opens again. Lay it aside and rename.
		fresh := path + ".new"
		for _, f := range []string{fresh, fresh + "-wal", fresh + "-shm"} {
			if err := os.RemoveAll(f); err != nil {
				return err
			}
		}
		setup := *sqlConfig
		setup.DatabaseName = fresh
		setup.ConnectAttributes = map[string]string{"mode": "rwc"}
		if err := sqliteschema.SetupSchema(&setup); err != nil {
			return fmt.Errorf("lay schema: %w", err)
		}
		// What SQLite makes beside the file gets the file's mode.
		if err := os.Chmod(fresh, 0o600); err != nil {
			return err
		}
		if err := os.Rename(fresh, path); err != nil {
			return err
		}
	}
	ns, err := sqliteschema.NewNamespaceConfig(clusterName, namespace, false, map[string]enumspb.IndexedValueType{})
	if err != nil {
		return err
	}
	ns.Detail.Config.Retention = durationpb.New(retention)
	return sqliteschema.CreateNamespaces(sqlConfig, ns)
}

func serverOptions(sqlConfig *config.SQL, ports []int, logger *slog.Logger) []temporal.ServerOption {
	services := []string{"frontend", "history", "matching", "worker"}
	names := []primitives.ServiceName{primitives.FrontendService, primitives.HistoryService, primitives.MatchingService, primitives.WorkerService}
	cfg := &config.Config{
		Global: config.Global{
			Membership: config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: "127.0.0.1"},
		},
		Persistence: config.Persistence{
			DefaultStore:     sqliteplugin.PluginName,
			VisibilityStore:  sqliteplugin.PluginName,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{sqliteplugin.PluginName: {SQL: sqlConfig}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: fmt.Sprintf("127.0.0.1:%d", ports[0])},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services:            map[string]config.Service{},
		Archival: config.Archival{
			History:    config.HistoryArchival{State: "disabled"},
			Visibility: config.VisibilityArchival{State: "disabled"},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: "disabled"},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
		}},
		PublicClient: config.PublicClient{HostPort: fmt.Sprintf("127.0.0.1:%d", ports[0])},
	}
	hosts := map[primitives.ServiceName]static.Hosts{}
	for i, s := range services {
		cfg.Services[s] = config.Service{RPC: config.RPC{GRPCPort: ports[i], BindOnIP: "127.0.0.1"}}
		hosts[names[i]] = static.SingleLocalHost(fmt.Sprintf("127.0.0.1:%d", ports[i]))
	}
	return []temporal.ServerOption{
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(serverLogger{logger.With("component", "engine")}),
		temporal.WithCustomMetricsHandler(metrics.NoopMetricsHandler),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return authorization.NewNoopClaimMapper() }),
		temporal.WithDynamicConfigClient(dynamicconfig.StaticClient{
			// One task-queue partition: with one worker process the default of four
			// only adds forwarding hops between delivery and runner.
			dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():  1,
			dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(): 1,
			// Finished workflows stay in this cache until it is full, some 90 KiB each,
			// and its default of 128,000 entries would be many gigabytes: memory grew by
			// 180 KiB per job. A thousand holds what lives at one time.
			dynamicconfig.HistoryCacheHostLevelMaxSize.Key(): 1000,
			dynamicconfig.HistoryCacheTTL.Key():              10 * time.Minute,
			// The embedded engine serves one program; the limits that protect a
			// shared cluster's neighbours would only turn bursts into errors.
			dynamicconfig.FrontendMaxNamespaceRPSPerInstance.Key(): 20000,
			dynamicconfig.FrontendRPS.Key():                        20000,
			dynamicconfig.HistoryPersistenceMaxQPS.Key():           50000,
			dynamicconfig.FrontendPersistenceMaxQPS.Key():          50000,
			dynamicconfig.MatchingPersistenceMaxQPS.Key():          50000,
		}),
	}
}

// stop shuts the server down; the file may be opened again afterwards.
func (e *embedded) stop() {
	// Stop reports only that it was interrupted; there is nothing left to undo.
	_ = e.server.Stop()
	e.unlock()
}

func (e *embedded) unlock() { _ = e.lock.Close() }

// lockFile takes an exclusive lock that the kernel drops with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is locked: another control plane runs on this data directory; stop it or choose another data_dir", path)
	}
	return f, nil
}

// reservePorts finds n free loopback ports and keeps them until release: the server
// binds them a moment later, and ends the whole process if it cannot. A socket that is
// bound, does not listen and lets its address be used again stands in nobody's way who
// asks for the port by its number; the system gives it to nobody who asks for any port.
// Systems other than Linux refuse the second bind: there the ports are only looked for.
func reservePorts(n int) (ports []int, release func(), err error) {
	var held []int
	release = func() {
		for _, fd := range held {
			_ = syscall.Close(fd) // nothing was written to it
		}
		held = nil
	}
	for range n {
		syscall.ForkLock.RLock()
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		if err == nil {
			syscall.CloseOnExec(fd)
		}
		syscall.ForkLock.RUnlock()
		if err != nil {
			release()
			return nil, nil, fmt.Errorf("find a free port: %w", err)
		}
		held = append(held, fd)
		err = errors.Join(
			syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
			syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
		at, nameErr := syscall.Getsockname(fd)
		v4, ok := at.(*syscall.SockaddrInet4)
		if err := errors.Join(err, nameErr); err != nil || !ok {
			release()
			return nil, nil, fmt.Errorf("find a free port: %w", err)
		}
		ports = append(ports, v4.Port)
	}
	if runtime.GOOS != "linux" {
		release()
	}
	return ports, release, nil
}

// loopback reports whether every address of host:port's host is this host's own.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
