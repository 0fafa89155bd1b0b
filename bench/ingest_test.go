package bench

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/ingress"
	"github.com/muster-ci/muster/internal/secretbox"
	"github.com/muster-ci/muster/internal/store"
)

const (
	connections = 32
	perRound    = 4000
	rounds      = 5
	hookSecret  = "bench-webhook-secret"
)

// BenchmarkIngest compares the webhook, which is durable before it answers, with
// a bare handler that checks the HMAC and appends to a file with fsync. Rounds
// alternate, and the ratio is that of the medians.
func BenchmarkIngest(b *testing.B) {
	body := sampleBody(b)
	bare := httptest.NewServer(bareHandler(b))
	defer bare.Close()
	ours := httptest.NewServer(ourHandler(b))
	defer ours.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}}
	load(b, client, bare.URL, body, 500) // warm both
	load(b, client, ours.URL+ingress.WebhookPath, body, 500)
	for b.Loop() {
		var bareRate, ourRate []float64
		var latencies []time.Duration
		for range rounds {
			rate, _ := load(b, client, bare.URL, body, perRound)
			bareRate = append(bareRate, rate)
			rate, ls := load(b, client, ours.URL+ingress.WebhookPath, body, perRound)
			ourRate = append(ourRate, rate)
			latencies = append(latencies, ls...)
		}
		slices.Sort(bareRate)
		slices.Sort(ourRate)
		slices.Sort(latencies)
		b.ReportMetric(ourRate[rounds/2]/bareRate[rounds/2], "ratio")
		b.ReportMetric(ourRate[rounds/2], "req/s")
		b.ReportMetric(bareRate[rounds/2], "bare-req/s")
		b.ReportMetric(ms(percentile(latencies, 50)), "p50-ms")
		b.ReportMetric(ms(percentile(latencies, 99)), "p99-ms")
	}
	b.ReportMetric(0, "ns/op") // the time of a whole comparison says nothing
}

// load posts n signed deliveries over all connections and returns the rate and
// every latency.
func load(b *testing.B, client *http.Client, url string, body []byte, n int) (perSecond float64, latencies []time.Duration) {
	b.Helper()
	sig := sign(body)
	var next atomic.Int64
	all := make([][]time.Duration, connections)
	began := time.Now()
	var wg sync.WaitGroup
	for c := range connections {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("X-GitHub-Event", "workflow_job")
				req.Header.Set("X-GitHub-Delivery", uuid.NewString())
				req.Header.Set("X-Hub-Signature-256", sig)
				at := time.Now()
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				all[c] = append(all[c], time.Since(at))
				if resp.StatusCode != http.StatusOK {
					b.Errorf("status %d", resp.StatusCode)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(began).Seconds(), slices.Concat(all...)
}

func sign(body []byte) string {
	mac := hmac.New(sha256.New, []byte(hookSecret))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// sampleBody is a workflow_job event of a realistic size: the job, and the
// repository and sender objects that come with it.
func sampleBody(b *testing.B) []byte {
	b.Helper()
	filler := bytes.Repeat([]byte(`{"key":"https://api.github.com/repos/acme/web/branches{/branch}","value":true},`), 100)
	body := fmt.Appendf(nil, `{"action":"queued","workflow_job":{"id":123456789,"run_id":987654321,"run_attempt":1,"status":"queued","labels":["self-hosted","linux"],"runner_id":null,"runner_name":null},"repository":{"id":1,"name":"web","full_name":"acme/web","links":[%s{}]},"installation":{"id":1}}`, filler)
	return body
}

// bareHandler is the least that a durable receiver can do.
func bareHandler(b *testing.B) http.Handler {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !hmac.Equal([]byte(r.Header.Get("X-Hub-Signature-256")), []byte(sign(body))) {
			http.Error(w, "bad", http.StatusUnauthorized)
			return
		}
		mu.Lock()
		_, err = f.Write(body)
		if err == nil {
			err = f.Sync()
		}
		mu.Unlock()
		if err != nil {
			http.Error(w, "bad", http.StatusInternalServerError)
		}
	})
}

func ourHandler(b *testing.B) http.Handler {
	b.Helper()
	dir := b.TempDir()
	box, err := secretbox.Load(filepath.Join(dir, "key"))
	if err != nil {
		b.Fatal(err)
	}
	db, err := store.Open(context.Background(), store.Config{URL: "sqlite:" + filepath.Join(dir, "muster.db"), Secrets: box})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	h, err := ingress.NewWebhook(ingress.WebhookConfig{Apps: []ingress.App{{Name: "main", Secrets: []muster.Secret{hookSecret}}}, Inbox: db})
	if err != nil {
		b.Fatal(err)
	}
	return h
}

func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, max(0, (len(sorted)*p+99)/100-1))]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
