package githubsim

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Server is one simulated GitHub. Make it with New and end it with Close. All
// methods are safe for concurrent use.
type Server struct {
	cfg     Config
	faults  *Faults
	agenda  *agenda
	mux     *http.ServeMux
	hooks   *http.Client
	keys    keyPool
	archive runnerArchive

	// work counts the goroutines that deliver webhooks; stop ends them.
	work     sync.WaitGroup
	stop     context.CancelFunc
	stopping context.Context //nolint:containedctx // the server's own life, which it ends itself
	// listener and unhook are set by Start.
	listener *http.Server
	unhook   func() bool

	// mu guards everything below. It is never held during network or disk I/O,
	// nor while a key is generated.
	mu     sync.Mutex
	base   string // like Config.BaseURL
	closed bool
	chance *chance
	change chan struct{} // closed and replaced on every change
	ids    ids

	accounts      map[string]*account // by lower-case login
	enterprises   map[string]*account // by lower-case slug
	repositories  map[string]*repository
	repositoryIDs map[int64]*repository
	apps          map[int64]*app
	appList       []*app // oldest first
	appsByClient  map[string]*app
	installations map[int64]*installation
	tokens        map[string]*token
	registrations map[string]*registrationToken
	manifests     map[string]*manifestCode
	oauth         map[string]*runner // access tokens of runners
	clients       map[string]*runner // by OAuth client id

	runners  map[int64]*runner
	sessions map[string]*session
	market   market
	slots    map[string]*slot // concurrency groups

	scaleSets   map[int64]*scaleSet
	setList     []*scaleSet            // oldest first
	queueTokens map[string]*queueToken // of scale sets' sessions

	jobTokens map[string]*job
	labelIDs  map[string]int64 // by lower-case name
	runs      map[int64]*run
	runList   []*run
	jobs      map[int64]*job
	jobsByID  map[string]*job // by the run service's UUID
	jobOrder  []*job
	logLinks  map[string]*logLink
	checks    map[int64]*check
	checkList []*check

	limits map[string]*limiter
	books  books

	acts         []Act
	injectedJobs []int64
}

// ids are the counters of everything that has a number.
type ids struct {
	account, app, installation, repository, runner, group, label counter
	run, job, workflow, suite, delivery, hook, environment       counter
	deployment, message, scaleSet, setMessage, request           counter
}

// New returns a server that serves nothing yet: mount Handler, or call Start.
// Close must be called in either case.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg.withDefaults()}
	s.keys.given = s.cfg.RunnerKey
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.agenda = newAgenda(s.cfg.Now)
	s.base = strings.TrimRight(s.cfg.BaseURL, "/")
	s.chance = newChance(s.cfg.Seed)
	s.change = make(chan struct{})
	s.faults = newFaults(s)
	s.hooks = newHookClient(s.cfg)
	// The starting points are as large as GitHub's own numbers: jobs and
	// deliveries do not fit into 32 bits.
	s.ids = ids{
		account: counter{21_000_000, 900}, app: counter{310_000, 90}, installation: counter{36_000_000, 900},
		repository: counter{591_000_000, 900}, runner: counter{20, 3}, group: counter{2, 1}, label: counter{4, 2},
		run: counter{18_400_000_000, 9000}, job: counter{52_100_000_000, 9000}, workflow: counter{98_000_000, 90},
		suite: counter{39_000_000_000, 9000}, delivery: counter{180_000_000_000, 9000}, hook: counter{430_000_000, 90},
		environment: counter{1_200_000_000, 90}, deployment: counter{1_900_000_000, 90}, message: counter{100, 3},
		scaleSet: counter{6, 3}, setMessage: counter{170, 90_000}, request: counter{30, 5},
	}
	s.accounts, s.enterprises = map[string]*account{}, map[string]*account{}
	s.repositories, s.repositoryIDs = map[string]*repository{}, map[int64]*repository{}
	s.apps, s.appsByClient = map[int64]*app{}, map[string]*app{}
	s.installations, s.tokens = map[int64]*installation{}, map[string]*token{}
	s.registrations, s.manifests = map[string]*registrationToken{}, map[string]*manifestCode{}
	s.oauth, s.clients = map[string]*runner{}, map[string]*runner{}
	s.runners, s.sessions = map[int64]*runner{}, map[string]*session{}
	s.runs, s.jobs, s.jobsByID = map[int64]*run{}, map[int64]*job{}, map[string]*job{}
	s.logLinks, s.checks = map[string]*logLink{}, map[int64]*check{}
	s.scaleSets, s.queueTokens = map[int64]*scaleSet{}, map[string]*queueToken{}
	s.jobTokens, s.labelIDs = map[string]*job{}, map[string]int64{}
	s.limits = map[string]*limiter{}
	s.market, s.slots = newMarket(), map[string]*slot{}
	s.books = newBooks()
	s.mux = s.routes()
	return s
}

// Handler serves GitHub's REST API both at / and at /api/v3/, the broker and run
// service of the runners, and the web pages of the manifest flow.
func (s *Server) Handler() http.Handler { return s.mux }

// Start listens on addr (port 0 picks one), serves Handler, and returns the URL
// at which clients reach it. It ends with Close or when ctx is done.
func (s *Server) Start(ctx context.Context, addr string) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return "", fmt.Errorf("listen on %s: %w", addr, err)
	}
	s.mu.Lock()
	if s.closed || s.listener != nil {
		s.mu.Unlock()
		l.Close()
		return "", fmt.Errorf("start: the server is closed or already started")
	}
	if s.base == "" {
		s.setBase("http://" + l.Addr().String())
	}
	url := s.base
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 30 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return s.stopping },
	}
	s.listener = srv
	s.work.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.work.Done()
		_ = srv.Serve(l) // ends with the listener
	}()
	unhook := context.AfterFunc(ctx, func() { s.Close() })
	s.mu.Lock()
	s.unhook = unhook
	s.mu.Unlock()
	return url, nil
}

// Close ends all long polls, deliveries and timers and waits for them. The state
// stays readable. It may be called more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.work.Wait()
		return nil
	}
	s.closed = true
	srv, unhook := s.listener, s.unhook
	s.changed()
	s.mu.Unlock()

	if unhook != nil {
		unhook()
	}
	s.stop()
	s.agenda.close()
	var err error
	if srv != nil {
		// Requests under way saw stopping end; what still hangs is cut off.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.stopping), time.Second)
		if err = srv.Shutdown(ctx); err != nil {
			err = srv.Close()
		}
		cancel()
	}
	s.work.Wait()
	s.keys.wait()
	s.hooks.CloseIdleConnections()
	return err
}

// URL is where clients reach the server: Config.BaseURL, or what Start found.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// SetBaseURL says at which URL clients reach Handler, for a server that is not
// started by Start.
func (s *Server) SetBaseURL(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setBase(url)
}

// setBase forgets the views that were made with another base.
func (s *Server) setBase(url string) {
	s.base = strings.TrimRight(url, "/")
	for _, known := range []map[string]*account{s.accounts, s.enterprises} {
		for _, a := range known {
			a.view = nil
		}
	}
	for _, r := range s.repositories {
		r.byVersion, r.small = nil, nil
	}
}

// ClockChanged tells the server that the clock of Config.Now has jumped.
func (s *Server) ClockChanged() { s.agenda.poke() }

// Faults returns the server's misfortunes, all off in a new server.
func (s *Server) Faults() *Faults { return s.faults }

// now is GitHub's own clock, which may run ahead of or behind the client's.
func (s *Server) now() time.Time {
	return s.cfg.Now().Add(s.faults.skew()).UTC()
}

// after runs do with mu held once d has passed; 0 means never. It may be called
// with or without mu.
func (s *Server) after(d time.Duration, do func()) *entry {
	if d <= 0 {
		return nil
	}
	return s.agenda.after(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		do()
	})
}

// changed wakes everyone who waits for a change. The caller holds mu.
func (s *Server) changed() {
	close(s.change)
	s.change = make(chan struct{})
}

// api is the base of REST links, html the base of web links.
func (s *Server) api() string  { return s.base + "/api/v3" }
func (s *Server) html() string { return s.base }
