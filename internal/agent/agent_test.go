package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-ci/muster/internal/wire"
)

const (
	bootToken    = "canary-boot-token-4c1d"
	sessionToken = "canary-session-token-77ab"
)

// jitConfig is shaped like GitHub's: files in base64, a private key among them.
var jitConfig = func() string {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	text, _ := json.Marshal(map[string]string{
		".runner":                b64(`{"AgentId":7,"AgentName":"linux-abc"}`),
		".credentials":           b64(`{"Scheme":"OAuth","Data":{"clientId":"canary-client-id"}}`),
		".credentials_rsaparams": b64(`{"d":"canary-private-exponent-0001","exponent":"AQAB"}`),
	})
	return base64.StdEncoding.EncodeToString(text)
}()

// plane is a control plane: a RoundTripper for tests in a bubble, a Handler for
// real ones.
type plane struct {
	mu      sync.Mutex
	boot    wire.BootResponse
	boots   []wire.BootRequest
	reports []wire.Report
	times   []time.Time // of reports
	logs    []byte
	chunks  int
	answer  func(wire.Report) wire.Answer
	// before may answer a call itself; tries counts from 1 per path.
	before func(path string, try int, w http.ResponseWriter) bool
	// lose makes a call that was served fail on the way back.
	lose  func(path string, try int) bool
	tries map[string]int
	wrong []string
	vault
}

func newPlane() *plane {
	return &plane{tries: map[string]int{}, boot: wire.BootResponse{
		Runner: "r-test", Name: "linux-test", SessionToken: sessionToken, JITConfig: jitConfig,
		NoJobSeconds: 120, HeartbeatSeconds: 15,
	}}
}

func (p *plane) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	if !p.serve(w, req) {
		return nil, errors.New("connection reset by peer")
	}
	return w.Result(), nil
}

func (p *plane) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !p.serve(w, req) {
		panic(http.ErrAbortHandler)
	}
}

func (p *plane) serve(w http.ResponseWriter, req *http.Request) (arrived bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := req.URL.Path
	p.tries[path]++
	try := p.tries[path]
	body, _ := io.ReadAll(req.Body)
	if p.before != nil && p.before(path, try, w) {
		return true
	}
	want := sessionToken
	if path == wire.BootPath {
		want = bootToken
	}
	if got := req.Header.Get("Authorization"); req.Method != http.MethodPost || got != "Bearer "+want {
		p.wrong = append(p.wrong, fmt.Sprintf("%s %s with %q", req.Method, path, got))
	}
	var out any
	switch path {
	case wire.BootPath:
		var r wire.BootRequest
		p.check(json.Unmarshal(body, &r))
		p.boots = append(p.boots, r)
		out = p.boot
	case wire.ReportPath:
		var r wire.Report
		p.check(json.Unmarshal(body, &r))
		p.reports, p.times = append(p.reports, r), append(p.times, time.Now())
		answer := wire.Answer{}
		if p.answer != nil {
			answer = p.answer(r)
		}
		out = answer
	case wire.LogPath:
		var c wire.LogChunk
		p.check(json.Unmarshal(body, &c))
		p.chunks++
		switch end := c.Offset + int64(len(c.Data)); {
		case c.Offset > int64(len(p.logs)):
			p.wrong = append(p.wrong, fmt.Sprintf("gap in the log at %d: chunk at %d", len(p.logs), c.Offset))
		case end > int64(len(p.logs)):
			p.logs = append(p.logs[:c.Offset], c.Data...)
		}
		out = wire.Answer{}
	case wire.TracePath, wire.TraceSealPath:
		if status, message := p.take(path, body); status != http.StatusOK {
			w.WriteHeader(status)
			out = wire.Error{Message: message}
			break
		}
		out = wire.Answer{}
	default:
		p.wrong = append(p.wrong, "path "+path)
	}
	if p.lose != nil && p.lose(path, try) {
		return false
	}
	p.check(json.NewEncoder(w).Encode(out))
	return true
}

func (p *plane) check(err error) {
	if err != nil {
		p.wrong = append(p.wrong, err.Error())
	}
}

// phases returns the reports in words, heartbeats without news left out.
func (p *plane) phases() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var words []string
	for i, r := range p.reports {
		if i > 0 && r.Seq < p.reports[i-1].Seq {
			words = append(words, fmt.Sprintf("OUT OF ORDER %d", r.Seq))
		}
		switch r.Phase {
		case wire.PhaseHeartbeat:
			if r.Result != "" {
				words = append(words, "result "+r.Result)
			}
		case wire.PhaseRunning:
			words = append(words, "running "+r.JobName)
		case wire.PhaseFinished:
			words = append(words, "finished "+r.Reason)
		default:
			words = append(words, string(r.Phase))
		}
	}
	return words
}

// puppet is a runner that the test plays.
type puppet struct {
	cmd         command
	r           *io.PipeReader
	w           *io.PipeWriter
	done        chan int
	once        sync.Once
	mu          sync.Mutex
	interrupts  []time.Time
	killed      []time.Time
	onInterrupt func()
}

func (p *puppet) output() io.Reader  { return p.r }
func (p *puppet) exited() <-chan int { return p.done }
func (p *puppet) say(text string)    { _, _ = io.WriteString(p.w, text) }
func (p *puppet) exit(code int)      { p.once.Do(func() { p.done <- code; p.w.Close() }) }
func (p *puppet) interrupt() {
	p.mu.Lock()
	p.interrupts = append(p.interrupts, time.Now())
	p.mu.Unlock()
	if p.onInterrupt != nil {
		go p.onInterrupt()
	}
}
func (p *puppet) kill() {
	p.mu.Lock()
	p.killed = append(p.killed, time.Now())
	p.mu.Unlock()
	p.exit(137)
}

// signals is how often the runner was interrupted and killed.
func (p *puppet) signals() (interrupted, killed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.interrupts), len(p.killed)
}

// scene runs an agent in a bubble against a plane and a puppet.
type scene struct {
	*testing.T
	plane  *plane
	puppet *puppet
	cfg    Config
	began  time.Time
	cancel context.CancelFunc
	log    bytes.Buffer
	out    bytes.Buffer
	code   int
	err    error
	ended  time.Duration
}

// play runs the agent while the script plays, and returns when both have ended.
func play(t *testing.T, prepare func(*scene), script func(*scene)) {
	t.Helper()
	outer := t
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		s := &scene{T: t, plane: newPlane(), puppet: &puppet{
			r: r, w: w, done: make(chan int, 1),
		}}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "run.sh"), nil, 0o755); err != nil {
			t.Fatal(err)
		}
		started := make(chan struct{})
		s.cfg = Config{
			URL: "http://plane/", Token: bootToken, RunnerDir: dir, StopGrace: 30 * time.Second, HTTP: &http.Client{Transport: s.plane},
			Logger: slog.New(slog.NewTextHandler(&s.log, nil)), Output: &s.out,
			start: func(c command) (runner, error) {
				s.puppet.cmd = c
				if c.follow != nil {
					if err := c.follow(runnerPID); err != nil {
						close(started)
						return nil, err
					}
				}
				close(started)
				return s.puppet, nil
			},
		}
		if prepare != nil {
			prepare(s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.cancel, s.began = cancel, time.Now()
		var running sync.WaitGroup
		running.Go(func() {
			s.code, s.err = Run(ctx, s.cfg, "test")
			s.ended = time.Since(s.began)
		})
		if script != nil {
			<-started
			script(s)
		}
		running.Wait()
		if len(s.plane.wrong) > 0 {
			t.Errorf("the control plane was given: %v", s.plane.wrong)
		}
		for place, text := range map[string]string{"log": s.log.String(), "output": s.out.String(), "shipped output": string(s.plane.logs), "error": fmt.Sprint(s.err)} {
			if strings.Contains(text, "canary") || strings.Contains(text, jitConfig) {
				t.Errorf("a secret is in the %s:\n%s", place, text)
			}
		}
		s.T = outer // for what is checked after the bubble
	})
}

// pass lets time go by.
func (s *scene) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (s *scene) want(code int, phases ...string) {
	s.Helper()
	if s.code != code || (s.err == nil) != (code == ExitDone) {
		s.Errorf("exit code %d, %v; want %d", s.code, s.err, code)
	}
	if got := s.plane.phases(); !slices.Equal(got, phases) {
		s.Errorf("reports:\n%q\nwant:\n%q", got, phases)
	}
}

const (
	listening = "2026-03-01 10:00:00Z: Listening for Jobs\n"
	running   = "2026-03-01 10:00:09Z: Running job: build (linux)\n"
	completed = "2026-03-01 10:00:59Z: Job build (linux) completed with result: Succeeded\n"
)

func TestJobThenExit(t *testing.T) { // S0-18 S1-67
	var end *scene
	play(t, nil, func(s *scene) {
		end = s
		s.puppet.say("√ Connected to GitHub\r\n\r\n" + listening)
		s.pass(10 * time.Second)
		s.puppet.say(running)
		s.pass(5 * time.Minute) // longer than the time without a job
		s.puppet.say(completed)
		s.pass(time.Second)
		s.puppet.exit(0)
	})
	end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
	p := end.plane
	if b := p.boots[0]; len(p.boots) != 1 || len(b.Nonce) < 16 || b.AgentVersion != "test" || b.OS == "" || b.Arch == "" {
		t.Errorf("boot: %+v", p.boots)
	}
	if len(end.puppet.interrupts) != 0 {
		t.Error("the runner was interrupted")
	}
	if !strings.Contains(string(p.logs), "√ Connected to GitHub") || string(p.logs) != end.out.String() {
		t.Errorf("shipped %q, wrote %q", p.logs, end.out.String())
	}
	// Heartbeats: every 15 s without another report, busy while the job runs.
	beats, busy := 0, 0
	for i, r := range p.reports {
		if r.Seq != i+1 || r.At.IsZero() {
			t.Errorf("report %d: %+v", i, r)
		}
		if i > 0 && p.times[i].Sub(p.times[i-1]) > 15*time.Second {
			t.Errorf("%s without a word before %+v", p.times[i].Sub(p.times[i-1]), r)
		}
		if r.Phase == wire.PhaseHeartbeat && r.Result == "" {
			beats++
			if r.Busy {
				busy++
			}
		}
	}
	if beats < 20 || busy < 20 || busy > beats {
		t.Errorf("%d heartbeats, %d busy, in 5 minutes", beats, busy)
	}
	if env := strings.Join(end.puppet.cmd.env, "\n"); !strings.Contains(env, "ACTIONS_RUNNER_INPUT_JITCONFIG="+jitConfig) || strings.Contains(env, bootToken) {
		t.Errorf("environment of run.sh: %s", env)
	}
}

func TestNoJob(t *testing.T) {
	t.Run("CountsFromListening", func(t *testing.T) { // S2-13 4-43
		var end *scene
		var heard time.Time
		play(t, nil, func(s *scene) {
			end = s
			s.puppet.onInterrupt = func() { s.puppet.exit(0) }
			s.pass(10 * time.Minute) // a slow start, self-update, registration …
			heard = time.Now()
			s.puppet.say(listening)
			s.pass(119 * time.Second)
			s.puppet.say(listening) // it says so again after a lost connection
		})
		end.want(ExitDone, "started", "listening", "finished no job within 2m0s")
		if at := end.puppet.interrupts[0]; at.Sub(heard) != 120*time.Second {
			t.Errorf("interrupted %s after it listened", at.Sub(heard))
		}
	})
	t.Run("ForEver", func(t *testing.T) {
		var end *scene
		play(t, func(s *scene) { s.plane.boot.NoJobSeconds = 0 }, func(s *scene) {
			end = s
			s.puppet.say(listening)
			s.pass(24 * time.Hour)
			s.puppet.exit(0)
		})
		end.want(ExitDone, "started", "listening", "finished runner ended without a job")
	})
	t.Run("IgnoresTheInterrupt", func(t *testing.T) {
		var end *scene
		play(t, nil, func(s *scene) {
			end = s
			s.puppet.say(listening)
		})
		end.want(ExitDone, "started", "listening", "finished no job within 2m0s")
		if d := end.puppet.killed[0].Sub(end.puppet.interrupts[0]); d != 30*time.Second {
			t.Errorf("killed %s after the interrupt", d)
		}
	})
	t.Run("JobBeginsMeanwhile", func(t *testing.T) { // 4-17: a job that began is not killed
		var end *scene
		play(t, nil, func(s *scene) {
			end = s
			s.puppet.say(listening)
			s.pass(125 * time.Second)
			s.puppet.say(running)
			s.pass(3 * time.Hour)
			if _, killed := s.puppet.signals(); killed > 0 {
				s.Error("a running job was killed")
			}
			s.puppet.say(completed)
			s.pass(time.Second)
			s.puppet.exit(0)
		})
		end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
	})
	t.Run("JobSaidBeforeTheDeadline", func(t *testing.T) { // 4-43
		var end *scene
		play(t, nil, func(s *scene) {
			end = s
			s.puppet.say(listening)
			s.pass(120*time.Second - time.Nanosecond)
			s.puppet.say(running)
			s.pass(time.Hour)
			s.puppet.say(completed)
			s.puppet.exit(0)
		})
		end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
		if len(end.puppet.interrupts) != 0 {
			t.Error("a runner with a job was interrupted")
		}
	})
	t.Run("StaysAfterItsJob", func(t *testing.T) {
		var end *scene
		play(t, nil, func(s *scene) {
			end = s
			s.puppet.say(listening + running + completed)
		})
		end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
		if end.ended < 2*time.Minute || end.ended > 3*time.Minute {
			t.Errorf("a runner that does not end after its job lived %s", end.ended)
		}
	})
}

// on answers a command to the reports of a phase.
func on(phase wire.Phase, c wire.Command) func(wire.Report) wire.Answer {
	return func(r wire.Report) wire.Answer {
		if r.Phase == phase {
			return wire.Answer{Command: c, Reason: "test"}
		}
		return wire.Answer{}
	}
}

func TestCommands(t *testing.T) {
	t.Run("DrainWhileIdle", func(t *testing.T) { // S2-14: another runner took the job, or it was cancelled
		var end *scene
		play(t, func(s *scene) { s.plane.answer = on(wire.PhaseListening, wire.CommandDrain) }, func(s *scene) {
			end = s
			s.puppet.onInterrupt = func() { s.puppet.exit(0) }
			s.puppet.say(listening)
		})
		end.want(ExitDone, "started", "listening", "finished told to drain")
		if end.ended > 5*time.Second {
			t.Errorf("took %s", end.ended)
		}
	})
	t.Run("DrainWhileBusy", func(t *testing.T) { // 4-17 4-18
		var end *scene
		play(t, func(s *scene) { s.plane.answer = on(wire.PhaseRunning, wire.CommandDrain) }, func(s *scene) {
			end = s
			s.puppet.say(listening + running)
			s.pass(time.Second)
			s.plane.mu.Lock()
			r := s.plane.reports[len(s.plane.reports)-1]
			s.plane.mu.Unlock()
			if r.Phase != wire.PhaseHeartbeat || !r.Busy {
				s.Errorf("the refusal was not said: %+v", r)
			}
			s.pass(time.Hour)
			s.puppet.say(completed)
			s.puppet.exit(0)
		})
		end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
		// kill sweeps up after every runner that has ended; nothing came before.
		if interrupted, killed := end.puppet.signals(); interrupted > 0 || killed != 1 {
			t.Error("a busy runner was drained")
		}
	})
	t.Run("StopWhileBusy", func(t *testing.T) { // S1-69
		var end *scene
		play(t, func(s *scene) { s.plane.answer = on(wire.PhaseRunning, wire.CommandStop) }, func(s *scene) {
			end = s
			s.puppet.say(listening + running)
		})
		end.want(ExitDone, "started", "listening", "running build (linux)", "finished told to stop")
		if d := end.puppet.killed[0].Sub(end.puppet.interrupts[0]); d != 30*time.Second {
			t.Errorf("killed %s after the interrupt", d)
		}
	})
	t.Run("StopAfterDrain", func(t *testing.T) {
		var end *scene
		play(t, func(s *scene) {
			s.plane.answer = func(r wire.Report) wire.Answer {
				switch r.Phase {
				case wire.PhaseListening:
					return wire.Answer{Command: wire.CommandDrain}
				case wire.PhaseRunning:
					return wire.Answer{Command: wire.CommandStop}
				}
				return wire.Answer{}
			}
		}, func(s *scene) {
			end = s
			s.puppet.say(listening)
			s.pass(time.Second)
			s.puppet.say(running)
		})
		end.want(ExitDone, "started", "listening", "running build (linux)", "finished told to stop")
	})
	t.Run("GoneWhileIdle", func(t *testing.T) { // 4-10
		var end *scene
		play(t, func(s *scene) {
			s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
				if path != wire.ReportPath || try == 1 {
					return false
				}
				w.WriteHeader(http.StatusGone)
				return true
			}
		}, func(s *scene) {
			end = s
			s.puppet.onInterrupt = func() { s.puppet.exit(0) }
			s.puppet.say(listening)
		})
		end.want(ExitDone, "started")
		if end.ended > 5*time.Second {
			t.Errorf("took %s", end.ended)
		}
	})
	t.Run("Signal", func(t *testing.T) {
		var end *scene
		play(t, nil, func(s *scene) {
			end = s
			s.puppet.onInterrupt = func() { s.puppet.exit(130) }
			s.puppet.say(listening + running)
			s.pass(time.Minute)
			s.cancel()
		})
		end.want(ExitDone, "started", "listening", "running build (linux)", "finished told to stop")
	})
	t.Run("MaximumAge", func(t *testing.T) {
		for name, set := range map[string]func(*scene){
			"OfThePlane":    func(s *scene) { s.plane.boot.MaxSeconds = 3600 },
			"OfTheProvider": func(s *scene) { s.plane.boot.MaxSeconds, s.cfg.MaxAge = 7200, time.Hour },
		} {
			t.Run(name, func(t *testing.T) {
				var end *scene
				play(t, set, func(s *scene) {
					end = s
					s.puppet.onInterrupt = func() { s.puppet.exit(0) }
					s.puppet.say(listening + running)
				})
				end.want(ExitDone, "started", "listening", "running build (linux)", "finished maximum age")
				if d := end.puppet.interrupts[0].Sub(end.began); d != time.Hour {
					t.Errorf("interrupted after %s", d)
				}
			})
		}
	})
}

func TestRunnerFails(t *testing.T) {
	for name, c := range map[string]struct {
		says   string
		code   int
		exit   int
		phases []string
	}{
		"BeforeListening": {"cannot connect\n", 0, ExitRunner, []string{"started", "finished runner failed: it ended with code 0 before it listened for jobs"}},
		"DuringItsJob": {listening + running, 1, ExitRunner,
			[]string{"started", "listening", "running build (linux)", `finished runner failed: it ended with code 1 while it ran "build (linux)"`}},
		"Deprecated": {"An error occured: Runner version v2.285.1 is deprecated and cannot receive messages.\n", 7, ExitDeprecated, //nolint:misspell // the runner's own words; 4-44
			[]string{"started", "finished runner failed: GitHub refuses its version as deprecated"}},
		"DeprecatedAndSilent": {listening, 7, ExitDeprecated, []string{"started", "listening", "finished runner failed: GitHub refuses its version as deprecated"}},
		"SaysAllAtTheEnd":     {listening + running + completed, 0, ExitDone, []string{"started", "listening", "running build (linux)", "result Succeeded", "finished job finished"}},
	} {
		t.Run(name, func(t *testing.T) {
			var end *scene
			play(t, nil, func(s *scene) {
				end = s
				s.puppet.say(c.says)
				s.puppet.exit(c.code)
			})
			end.want(c.exit, c.phases...)
			if last := end.plane.reports[len(end.plane.reports)-1]; last.ExitCode != c.code {
				t.Errorf("exit code of the last report: %d", last.ExitCode)
			}
		})
	}
	t.Run("RegistrationDeleted", func(t *testing.T) {
		var end *scene
		play(t, nil, func(s *scene) {
			end = s
			s.puppet.say("Failed to create a session. The runner registration has been deleted from the server, please re-configure.\n")
			// run.sh starts the listener again and again, and ignores SIGINT.
		})
		end.want(ExitRunner, "started", "finished runner failed: its registration has been deleted")
		if end.ended > time.Minute {
			t.Errorf("took %s", end.ended)
		}
	})
	t.Run("NotStarted", func(t *testing.T) {
		var end *scene
		play(t, func(s *scene) {
			end = s
			s.cfg.start = func(command) (runner, error) { return nil, errors.New("exec format error") }
		}, nil)
		end.want(ExitRunner, "finished runner failed: start runner: exec format error")
	})
	t.Run("NoRunnerDirectory", func(t *testing.T) {
		var end *scene
		play(t, func(s *scene) {
			end = s
			s.cfg.RunnerDir = filepath.Join(s.cfg.RunnerDir, "nowhere")
		}, nil)
		end.want(ExitRunnerDir)
		if len(end.plane.boots) > 0 {
			t.Error("the boot token was spent on nothing")
		}
	})
}

func TestBoot(t *testing.T) {
	t.Run("LostAnswer", func(t *testing.T) { // 4-10: the same nonce
		var end *scene
		play(t, func(s *scene) {
			s.plane.lose = func(path string, try int) bool { return path == wire.BootPath && try <= 2 }
		}, func(s *scene) {
			end = s
			s.puppet.say(listening + running + completed)
			s.puppet.exit(0)
		})
		b := end.plane.boots
		if len(b) != 3 || b[0].Nonce == "" || b[0].Nonce != b[1].Nonce || b[1].Nonce != b[2].Nonce {
			t.Errorf("boots: %+v", b)
		}
		if end.code != ExitDone {
			t.Errorf("%d, %v", end.code, end.err)
		}
	})
	t.Run("NonceOfItsOwn", func(t *testing.T) {
		seen := map[string]bool{}
		for range 2 {
			play(t, nil, func(s *scene) {
				s.plane.mu.Lock()
				seen[s.plane.boots[0].Nonce] = true
				s.plane.mu.Unlock()
				s.puppet.exit(0)
			})
		}
		if len(seen) != 2 {
			t.Error("two agents have the same nonce")
		}
	})
	for name, c := range map[string]struct {
		answers []int
		after   string
		atLeast time.Duration
	}{
		"Unavailable":     {[]int{503, 503, 500, 502}, "", time.Second},
		"RetryAfter":      {[]int{503}, "40", 40 * time.Second},
		"TooManyRequests": {[]int{429, 429}, "10", 20 * time.Second},
		"Redirect":        {nil, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var end *scene
			var booted time.Duration
			play(t, func(s *scene) {
				s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
					if path != wire.BootPath || try > len(c.answers) {
						return false
					}
					if c.after != "" {
						w.Header().Set("Retry-After", c.after)
					}
					w.WriteHeader(c.answers[try-1])
					return true
				}
			}, func(s *scene) {
				end = s
				booted = time.Since(s.began)
				s.puppet.say(listening)
				s.puppet.exit(0)
			})
			if end.code != ExitDone || booted < c.atLeast || booted > c.atLeast+2*time.Minute {
				t.Errorf("exit %d after %s", end.code, booted)
			}
		})
	}
	for code, exit := range map[int]int{ // 4-10
		401: ExitUnauthenticated, 403: ExitForbidden, 409: ExitConflict, 410: ExitGone, 400: ExitRefused, 404: ExitRefused, 302: ExitRefused,
	} {
		t.Run(fmt.Sprintf("Refused%d", code), func(t *testing.T) {
			var end *scene
			play(t, func(s *scene) {
				end = s
				s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
					w.Header().Set("Location", "http://elsewhere/")
					w.WriteHeader(code)
					_ = json.NewEncoder(w).Encode(wire.Error{Code: "x", Message: "the runner is not needed"})
					return true
				}
			}, nil)
			end.want(exit)
			if end.ended > time.Second || end.plane.tries[wire.BootPath] != 1 || !strings.Contains(end.err.Error(), "the runner is not needed") {
				t.Errorf("%d tries in %s: %v", end.plane.tries[wire.BootPath], end.ended, end.err)
			}
		})
	}
	t.Run("NeverAnswered", func(t *testing.T) {
		var end *scene
		play(t, func(s *scene) {
			end = s
			s.plane.lose = func(string, int) bool { return true }
		}, nil)
		end.want(ExitUnreachable)
		if n := end.plane.tries[wire.BootPath]; end.ended > 11*time.Minute || n > 50 || n < 10 {
			t.Errorf("%d tries in %s", n, end.ended)
		}
	})
	t.Run("SomebodyElsesPage", func(t *testing.T) {
		var end *scene
		play(t, func(s *scene) {
			s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
				if path != wire.BootPath || try > 2 {
					return false
				}
				_, _ = io.WriteString(w, []string{"<html>please log in</html>", `{"runner":"r-x"}`}[try-1])
				return true
			}
		}, func(s *scene) {
			end = s
			s.puppet.say(listening)
			s.puppet.exit(0)
		})
		if end.code != ExitDone {
			t.Errorf("%d, %v", end.code, end.err)
		}
	})
	t.Run("ToldToStopMeanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPlane()
			p.lose = func(string, int) bool { return true }
			dir := t.TempDir()
			_ = os.WriteFile(filepath.Join(dir, "run.sh"), nil, 0o755)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			code, err := Run(ctx, Config{URL: "http://plane", Token: bootToken, RunnerDir: dir, HTTP: &http.Client{Transport: p}}, "test")
			if code != ExitDone || err == nil {
				t.Errorf("%d, %v", code, err)
			}
		})
	})
}

func TestControlPlaneIsAway(t *testing.T) {
	t.Run("ForAWhile", func(t *testing.T) {
		var end *scene
		var from, to time.Time
		play(t, func(s *scene) {
			from, to = time.Now().Add(time.Second), time.Now().Add(20*time.Minute)
			away := func() bool { return time.Now().After(from) && time.Now().Before(to) }
			s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
				if away() && try%2 == 0 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return true
				}
				return false
			}
			s.plane.lose = func(path string, try int) bool { return away() } // taken, and the answer is lost
		}, func(s *scene) {
			end = s
			s.pass(2 * time.Second)
			s.puppet.say(listening)
			s.pass(time.Minute)
			s.puppet.say(running)
			s.pass(time.Hour)
			if interrupted, _ := s.puppet.signals(); interrupted > 0 {
				s.Error("the job was interrupted")
			}
			s.puppet.say(completed)
			s.puppet.exit(0)
		})
		if end.code != ExitDone {
			t.Errorf("%d, %v", end.code, end.err)
		}
		// Reports are repeated, never overtaken, and all arrive.
		var seqs []int
		for _, r := range end.plane.reports {
			if n := len(seqs); n == 0 || seqs[n-1] != r.Seq {
				seqs = append(seqs, r.Seq)
			}
		}
		for i, seq := range seqs {
			if seq != i+1 {
				t.Fatalf("order of reports: %v", seqs)
			}
		}
		if !strings.Contains(string(end.plane.logs), "Running job: build") || string(end.plane.logs) != end.out.String() {
			t.Errorf("shipped %q of %q", end.plane.logs, end.out.String())
		}
	})
	t.Run("ForEver", func(t *testing.T) {
		var end *scene
		var exited time.Time
		play(t, func(s *scene) {
			s.plane.lose = func(path string, try int) bool { return path != wire.BootPath }
		}, func(s *scene) {
			end = s
			s.puppet.say(listening + running)
			s.pass(time.Hour)
			s.puppet.say(completed)
			s.pass(time.Second)
			exited = time.Now()
			s.puppet.exit(0)
		})
		if end.code != ExitDone || end.began.Add(end.ended).Sub(exited) > time.Minute {
			t.Errorf("exit %d, %s after the runner", end.code, end.began.Add(end.ended).Sub(exited))
		}
	})
	t.Run("RefusesTheSession", func(t *testing.T) {
		var end *scene
		play(t, func(s *scene) {
			s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
				if path == wire.ReportPath && try < 4 {
					w.WriteHeader(http.StatusUnauthorized) // restored from a backup
					return true
				}
				return false
			}
		}, func(s *scene) {
			end = s
			s.puppet.say(listening + running)
			s.pass(time.Minute)
			s.puppet.say(completed)
			s.puppet.exit(0)
		})
		end.want(ExitDone, "started", "listening", "running build (linux)", "result Succeeded", "finished job finished")
	})
	t.Run("RefusesOneReport", func(t *testing.T) {
		var end *scene
		play(t, func(s *scene) {
			s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
				if path == wire.ReportPath && try == 1 {
					w.WriteHeader(http.StatusBadRequest)
					return true
				}
				return false
			}
		}, func(s *scene) {
			end = s
			s.puppet.say(listening + running + completed)
			s.puppet.exit(0)
		})
		end.want(ExitDone, "listening", "running build (linux)", "result Succeeded", "finished job finished")
	})
}

func TestQueueIsBounded(t *testing.T) {
	o := newOutbox(nil, slog.New(slog.DiscardHandler), nil)
	for i := range 1000 {
		o.add(wire.Report{Phase: wire.PhaseRunning, JobName: fmt.Sprint(i)})
	}
	o.add(wire.Report{Phase: wire.PhaseFinished})
	if len(o.queue) != maxQueue || o.queue[0].Seq != 1 || o.queue[maxQueue-1].Phase != wire.PhaseFinished || o.queue[1].Seq != 1001-maxQueue+2 {
		t.Errorf("%d reports, first %d, second %d", len(o.queue), o.queue[0].Seq, o.queue[1].Seq)
	}
}

func TestOutputIsBounded(t *testing.T) {
	var end *scene
	play(t, func(s *scene) {
		away := time.Now().Add(10 * time.Minute)
		s.plane.before = func(path string, try int, w http.ResponseWriter) bool {
			if path == wire.LogPath && time.Now().Before(away) {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			return false
		}
	}, func(s *scene) {
		end = s
		s.puppet.say(listening + running)
		line := strings.Repeat("x", 1023) + "\n"
		for range 1000 {
			s.puppet.say(line)
		}
		s.pass(11 * time.Minute)
		s.puppet.say("the end\n" + completed)
		s.pass(time.Minute)
		s.puppet.exit(0)
	})
	text := string(end.plane.logs)
	if n := len(text); n > maxPending+1024 || n < maxPending/2 || strings.Count(text, "output was dropped here") != 1 || !strings.HasSuffix(text, "the end\n"+completed) {
		t.Errorf("shipped %d bytes, ending %q", n, text[max(0, n-300):])
	}
	if end.out.Len() < 1000<<10 {
		t.Error("the local output was cut too")
	}
}

func TestSecretsInOutput(t *testing.T) { // 4-14
	var end *scene
	play(t, nil, func(s *scene) {
		end = s
		s.puppet.say(listening)
		for _, secret := range []string{jitConfig, sessionToken, bootToken, "canary-private-exponent-0001"} {
			for _, piece := range strings.SplitAfter("before "+secret+" after\n", "") { // byte by byte
				s.puppet.say(piece)
			}
		}
		s.puppet.say(strings.Repeat("y", 100_000) + sessionToken) // no end of line, ever
		s.puppet.exit(0)
	})
	if got := end.out.String(); strings.Count(got, "before *** after\n") != 4 || !strings.HasSuffix(got, "yyy***") {
		t.Errorf("output: %.400q", got)
	}
}

func TestJITArgument(t *testing.T) {
	play(t, func(s *scene) { s.cfg.JITArgument = true }, func(s *scene) {
		if !slices.Equal(s.puppet.cmd.args, []string{"--jitconfig", jitConfig}) || strings.Contains(strings.Join(s.puppet.cmd.env, "\n"), jitConfig) {
			s.Errorf("%+v", s.puppet.cmd)
		}
		s.puppet.exit(0)
	})
}
