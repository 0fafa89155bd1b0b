package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
)

func runners(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	for i := range 6 {
		of := "a"
		if i%2 == 1 {
			of = "b"
		}
		d := decision(muster.ScaleUp, "", "", 0)
		d.Pool = of
		d.Runners = []muster.Runner{{ID: muster.RunnerID(fmt.Sprintf("r-000%d", i)), CreatedAt: at(time.Duration(i) * time.Minute)}}
		must(s.RecordDecision(ctx, d))(t)
	}
	moveTo(t, s, "r-0004", muster.RunnerDraining, muster.RunnerDestroyed)
	moveTo(t, s, "r-0001", muster.RunnerDraining)
	ids := func(f store.RunnerFilter) (out []muster.RunnerID) {
		for _, r := range must(s.Runners(ctx, ws, f))(t) {
			out = append(out, r.ID)
		}
		return out
	}
	want(t, "all", ids(store.RunnerFilter{}), []muster.RunnerID{"r-0005", "r-0004", "r-0003", "r-0002", "r-0001", "r-0000"})
	want(t, "live in a", ids(store.RunnerFilter{Live: true, Pool: "a"}), []muster.RunnerID{"r-0002", "r-0000"})
	want(t, "states", ids(store.RunnerFilter{States: []muster.RunnerState{muster.RunnerDraining, muster.RunnerDestroyed}}), []muster.RunnerID{"r-0004", "r-0001"})
	want(t, "limited", ids(store.RunnerFilter{Limit: 1}), []muster.RunnerID{"r-0005"})
	want(t, "by id", ids(store.RunnerFilter{IDs: []muster.RunnerID{"r-0000", "r-0003", "r-9999"}}), []muster.RunnerID{"r-0003", "r-0000"})
	live := must(s.LiveRunners(ctx))(t)
	if len(live) != 5 || live[0].ID != "r-0000" {
		t.Fatalf("live: %v", live)
	}
	_, err := s.Runner(ctx, ws, "r-9999")
	wantCode(t, err, muster.CodeNotFound)
	_, err = s.RunnerByName(ctx, ws, "")
	wantCode(t, err, muster.CodeNotFound)
}

// A runner's row changes in whole and legal steps, and its history tells them. S1-58 S1-62
func updateRunner(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "a-0001")
	r, err := s.UpdateRunner(ctx, ws, "r-0001", at(time.Minute), "agent connected", func(r *muster.Runner) error {
		r.ConnectedAt, r.ID, r.Workspace, r.CreatedAt = at(time.Minute), "r-evil", "evil", at(time.Hour)
		return nil
	})
	ok(t, err)
	if r.ID != "r-0001" || r.Workspace != ws || r.CreatedAt != utc(base) || r.ConnectedAt != utc(at(time.Minute)) {
		t.Fatalf("updated: %+v", r)
	}
	update(t, s, "r-0001", func(r *muster.Runner) { r.State, r.Reason = muster.RunnerRegistered, "listening" })
	update(t, s, "r-0001", func(r *muster.Runner) { r.HeartbeatAt = at(time.Hour) }) // no line in the history

	_, err = s.UpdateRunner(ctx, ws, "r-0001", base, "", func(r *muster.Runner) error {
		r.State = muster.RunnerDestroyed
		return nil
	})
	wantCode(t, err, muster.CodeConflict)
	cause := errors.New("no")
	_, err = s.UpdateRunner(ctx, ws, "r-0001", base, "note", func(r *muster.Runner) error {
		r.Busy = true
		return cause
	})
	if !errors.Is(err, cause) {
		t.Fatalf("error of change became %v", err)
	}
	_, err = s.UpdateRunner(ctx, ws, "r-9999", base, "", func(*muster.Runner) error { return nil })
	wantCode(t, err, muster.CodeNotFound)

	r = must(s.Runner(ctx, ws, "r-0001"))(t)
	if r.State != muster.RunnerRegistered || r.Busy || r.HeartbeatAt != utc(at(time.Hour)) {
		t.Fatalf("after refused changes: %+v", r)
	}
	want(t, "history", must(s.RunnerEvents(ctx, ws, "r-0001"))(t), []muster.RunnerEvent{
		{At: utc(base), State: muster.RunnerProvisioning},
		{At: utc(at(time.Minute)), State: muster.RunnerProvisioning, Note: "agent connected"},
		{At: utc(at(time.Minute)), State: muster.RunnerRegistered, Note: "listening"},
	})
}

// A log is put together from chunks that may come twice, has marks where some is
// missing, and stops at 1 MiB.
func runnerLog(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "")
	read := func(id muster.RunnerID) string { return string(must(s.RunnerLog(ctx, ws, id))(t)) }
	add := func(id muster.RunnerID, offset int64, data string) {
		t.Helper()
		ok(t, s.AppendRunnerLog(ctx, ws, id, offset, []byte(data)))
	}
	want(t, "empty", read("r-0001"), "")
	add("r-0001", 0, "hello ")
	add("r-0001", 0, "hello ")
	add("r-0001", 6, "world\n")
	add("r-0001", 3, "lo world\nand ")
	add("r-0001", 6, "")
	want(t, "log", read("r-0001"), "hello world\nand ")
	add("r-0001", 20, "on")
	want(t, "gap", read("r-0001"), "hello world\nand \n[muster: 4 bytes are missing here]\non")

	// Bytes that are not text pass unchanged.
	addRunner(t, s, "r-0002", "a", "")
	add("r-0002", 0, "a\x00\xff")
	want(t, "binary", read("r-0002"), "a\x00\xff")

	// Ten chunks of 160 kB, each sent twice, are more than 1 MiB.
	addRunner(t, s, "r-0003", "a", "")
	chunk := long(160_000)
	for i := range int64(10) {
		add("r-0003", i*160_000, chunk)
		add("r-0003", i*160_000, chunk)
	}
	text := read("r-0003")
	whole := strings.Repeat(chunk, 10)
	if !strings.HasPrefix(text, whole[:1<<20]) || !strings.HasSuffix(text, "[muster: the log was cut here, at 1 MiB]\n") || len(text) > 1<<20+100 {
		t.Fatalf("capped log has %d bytes and ends with %q", len(text), text[max(0, len(text)-80):])
	}
	// Whoever holds a session may not store more by other offsets.
	addRunner(t, s, "r-0004", "a", "")
	add("r-0004", 1<<40, "far")
	add("r-0004", 1<<41, "away")
	if text = read("r-0004"); strings.Contains(text, "far") || !strings.Contains(text, "cut here") {
		t.Fatalf("log beyond its end: %q", text)
	}
	// Many small chunks.
	addRunner(t, s, "r-0005", "a", "")
	var all bytes.Buffer
	for i := range 500 {
		line := fmt.Sprintf("line %d\n%s", i, long(i%100))
		add("r-0005", int64(all.Len()), line)
		all.WriteString(line)
	}
	want(t, "many chunks", read("r-0005"), all.String())

	wantCode(t, s.AppendRunnerLog(ctx, ws, "r-9999", 0, []byte("x")), muster.CodeNotFound)
	wantCode(t, s.AppendRunnerLog(ctx, ws, "r-0001", -1, []byte("x")), muster.CodeInvalid)
	_, err := s.RunnerLog(ctx, ws, "r-9999")
	wantCode(t, err, muster.CodeNotFound)

	// Old logs of destroyed runners go.
	for _, id := range []muster.RunnerID{"r-0001", "r-0002"} {
		moveTo(t, s, id, muster.RunnerDraining)
		update(t, s, id, func(r *muster.Runner) { r.State, r.DestroyedAt = muster.RunnerDestroyed, at(time.Hour) })
	}
	update(t, s, "r-0002", func(r *muster.Runner) { r.DestroyedAt = at(3 * time.Hour) })
	n, err := s.PruneRunnerLogs(ctx, at(2*time.Hour))
	ok(t, err)
	if n == 0 || read("r-0001") != "" || read("r-0002") == "" || read("r-0005") == "" {
		t.Fatalf("pruned %d rows", n)
	}
	must(s.Runner(ctx, ws, "r-0001"))(t)
}

// A log that a job printed a secret into cannot be read without the key.
func sealedLog(t *testing.T, url string) {
	ctx := t.Context()
	box := must(secretbox.New(bytes.Repeat([]byte{1}, secretbox.KeySize)))(t)
	s := OpenConfig(t, store.Config{URL: url, Secrets: box})
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "")
	for i := range int64(3) {
		ok(t, s.AppendRunnerLog(ctx, ws, "r-0001", i*7, []byte("canary\n")))
	}
	want(t, "log", string(must(s.RunnerLog(ctx, ws, "r-0001"))(t)), "canary\ncanary\ncanary\n")
	plain := OpenConfig(t, store.Config{URL: url})
	if log := must(plain.RunnerLog(ctx, ws, "r-0001"))(t); bytes.Contains(log, []byte("canary")) || len(log) == 0 {
		t.Fatalf("in the database: %q", log)
	}
	stranger := OpenConfig(t, store.Config{URL: url, Secrets: must(secretbox.New(bytes.Repeat([]byte{2}, secretbox.KeySize)))(t)})
	_, err := stranger.RunnerLog(ctx, ws, "r-0001")
	wantCode(t, err, muster.CodeInvalid)
}

// A boot token is spent by the first nonce that presents it. 4-10 4-14
func bootTokens(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	addRunner(t, s, "r-0001", "a", "")
	token := muster.BootToken{JTI: "jti-1", Runner: "r-0001", Workspace: ws, ExpiresAt: at(20 * time.Hour)}
	ok(t, s.SaveBootToken(ctx, token))
	wantCode(t, s.SaveBootToken(ctx, token), muster.CodeConflict)
	use := func(jti, nonce string, after time.Duration) (muster.BootToken, bool, error) {
		return s.UseBootToken(ctx, jti, nonce, at(after), time.Minute)
	}
	_, _, err := use("jti-unknown", "n1", 0)
	wantCode(t, err, muster.CodeForbidden)
	_, _, err = use("jti-1", "n1", 20*time.Hour)
	wantCode(t, err, muster.CodeUnauthenticated)

	// A machine that waited for 19 hours is still let in. S2-11
	got, replay, err := use("jti-1", "n1", 19*time.Hour)
	ok(t, err)
	token.ExpiresAt = utc(token.ExpiresAt)
	want(t, "token", got, token)
	if replay {
		t.Fatal("the first use is no replay")
	}
	_, replay, err = use("jti-1", "n1", 19*time.Hour+time.Minute)
	ok(t, err)
	if !replay {
		t.Fatal("the second use is a replay")
	}
	for _, c := range []struct {
		nonce string
		after time.Duration
	}{{"n1", 19*time.Hour + time.Minute + time.Microsecond}, {"n2", 19 * time.Hour}, {"", 19 * time.Hour}} {
		_, _, err = use("jti-1", c.nonce, c.after)
		wantCode(t, err, muster.CodeConflict)
	}
	moveTo(t, s, "r-0001", muster.RunnerDraining)
	_, _, err = use("jti-1", "n1", 19*time.Hour)
	wantCode(t, err, muster.CodeGone)
	moveTo(t, s, "r-0001", muster.RunnerDestroyed)
	_, _, err = use("jti-1", "n1", 19*time.Hour)
	wantCode(t, err, muster.CodeGone)

	wantCode(t, s.SaveBootToken(ctx, muster.BootToken{JTI: "jti-2", Runner: "r-9999", Workspace: ws}), muster.CodeNotFound)
	wantCode(t, s.SaveBootToken(ctx, muster.BootToken{Runner: "r-0001", Workspace: ws}), muster.CodeInvalid)

	// Of many machines that present one token together, one gets in.
	addRunner(t, s, "r-0002", "a", "")
	ok(t, s.SaveBootToken(ctx, muster.BootToken{JTI: "jti-3", Runner: "r-0002", Workspace: ws, ExpiresAt: at(time.Hour)}))
	results := make(chan error, 16)
	for i := range cap(results) {
		go func() {
			_, _, err := use("jti-3", fmt.Sprint("nonce-", i), 0)
			results <- err
		}()
	}
	in := 0
	for range cap(results) {
		if err := <-results; err == nil {
			in++
		} else {
			wantCode(t, err, muster.CodeConflict)
		}
	}
	want(t, "let in", in, 1)
}

func sessions(t *testing.T, s *store.Store) {
	ctx := t.Context()
	withPools(t, s)
	r := addRunner(t, s, "r-0001", "a", "")
	first, firstHash := secretbox.NewSession([32]byte{1})
	_, secondHash := secretbox.NewSession([32]byte{2})
	ok(t, s.PutSession(ctx, ws, "r-0001", firstHash))
	ok(t, s.PutSession(ctx, ws, "r-0001", firstHash))
	ok(t, s.PutSession(ctx, ws, "r-0001", secondHash))
	want(t, "by session", must(s.RunnerBySession(ctx, secretbox.SessionHash(first.Reveal())))(t), r)
	must(s.RunnerBySession(ctx, secondHash))(t)
	_, err := s.RunnerBySession(ctx, secretbox.SessionHash("mss_guess"))
	wantCode(t, err, muster.CodeUnauthenticated)
	_, err = s.RunnerBySession(ctx, nil)
	wantCode(t, err, muster.CodeUnauthenticated)
	wantCode(t, s.PutSession(ctx, ws, "r-9999", firstHash), muster.CodeNotFound)
	wantCode(t, s.PutSession(ctx, ws, "r-0001", []byte(first.Reveal())), muster.CodeInvalid)
	// A token stays with the runner that it was made for.
	addRunner(t, s, "r-0002", "a", "")
	ok(t, s.PutSession(ctx, ws, "r-0002", firstHash))
	want(t, "by session", must(s.RunnerBySession(ctx, firstHash))(t).ID, "r-0001")
	// The agent of a destroyed runner is told so, not that it is a stranger.
	moveTo(t, s, "r-0001", muster.RunnerDraining, muster.RunnerDestroyed)
	want(t, "state", must(s.RunnerBySession(ctx, firstHash))(t).State, muster.RunnerDestroyed)
	_, err = s.PruneRunnerLogs(ctx, at(time.Hour))
	ok(t, err)
	_, err = s.RunnerBySession(ctx, firstHash)
	wantCode(t, err, muster.CodeUnauthenticated)
}
