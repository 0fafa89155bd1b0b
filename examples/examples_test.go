package examples_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-ci/muster/internal/config"
)

// Every example is a whole configuration: it loads once the files that it names
// are there.
func TestExamplesLoad(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	beside := map[string][]byte{
		"muster-app.pem": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"webhook-secret": []byte("a webhook secret\n"), "operator-token": []byte("a long random text\n"),
		"tls.crt": nil, "tls.key": nil, "temporal-ca.crt": nil, "temporal.crt": nil, "temporal.key": nil,
	}
	for _, name := range files {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			beside[name] = text
			for file, data := range beside {
				if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			delete(beside, name)
			cfg, err := config.Load(filepath.Join(dir, name), func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range cfg.Pools {
				if p.Provider == "" || p.Offering == "" || p.App == "" {
					t.Errorf("pool %s is served by provider %q with offering %q as App %q", p.Name, p.Provider, p.Offering, p.App)
				}
			}
		})
	}
}
