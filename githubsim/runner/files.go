package runner

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// WriteDir makes dir a runner directory: run.sh and config.sh start program
// with the directory they stand in as the runner's root, so copies of and links
// to them work elsewhere. The program is built from githubsim/actions-runner.
func WriteDir(dir, program string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return fmt.Errorf("path of the runner program: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make runner directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return fmt.Errorf("make runner directory: %w", err)
	}
	for name, text := range Scripts(program) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return fmt.Errorf("write runner directory: %w", err)
		}
	}
	return nil
}

// Scripts returns the scripts of a runner directory by name. An empty program
// means bin/Runner.Listener beside them, as in an archive for download.
func Scripts(program string) map[string]string {
	start := "./bin/Runner.Listener"
	if program != "" {
		start = "'" + strings.ReplaceAll(program, "'", `'\''`) + "'"
	}
	script := func(command string) string {
		return "#!/bin/sh\n# Starts the runner program in the directory of this script; exec, so that signals reach it.\n" +
			"case $0 in */*) cd \"${0%/*}\" || exit 1 ;; esac\nexec " + start + " " + command + " \"$@\"\n"
	}
	return map[string]string{
		"run.sh": script("run"), "config.sh": script("configure"),
		// What services are made with: runsvc.sh is copied to the top and started there.
		"bin/runsvc.sh": script("run"),
		// This runner needs nothing of the system.
		"bin/installdependencies.sh": "#!/bin/sh\nexit 0\n",
	}
}

// configuration is what the three files of a configured runner say.
type configuration struct {
	settings         message.Settings
	clientID         string
	authorizationURL string
	key              *rsa.PrivateKey
}

// writeJIT unpacks a JIT configuration: base64 of a JSON object that holds files
// in base64. The real runner writes whatever the blob names; only the three
// files it can mean are accepted here.
func (r *program) writeJIT(blob string) error {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(blob))
	if err != nil {
		return errors.New("the JIT configuration is not base64")
	}
	var files map[string]string
	if err := json.Unmarshal(raw, &files); err != nil {
		return errors.New("the JIT configuration is not a JSON object of files")
	}
	for name, content := range files {
		if !slices.Contains(configFiles, name) {
			return fmt.Errorf("the JIT configuration holds an unexpected file %q", name)
		}
		data, err := base64.StdEncoding.DecodeString(content)
		if err != nil {
			return fmt.Errorf("file %s of the JIT configuration is not base64", name)
		}
		if err := os.WriteFile(filepath.Join(r.root, name), data, 0o600); err != nil {
			return fmt.Errorf("write JIT configuration: %w", err)
		}
	}
	return nil
}

var configFiles = []string{message.FileSettings, message.FileCredentials, message.FileRSAParams}

// load reads the three files; os.ErrNotExist means that the runner is not configured.
func (r *program) load() (*configuration, error) {
	var c configuration
	var cred message.Credentials
	var key message.RSAParams
	for i, into := range []any{&c.settings, &cred, &key} {
		data, err := os.ReadFile(filepath.Join(r.root, configFiles[i]))
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		// Files that the real config.sh wrote begin with a byte order mark.
		if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), into); err != nil {
			return nil, fmt.Errorf("read configuration %s: %w", configFiles[i], err)
		}
	}
	c.clientID, c.authorizationURL = cred.Data["clientId"], cred.Data["authorizationUrl"]
	var err error
	c.key, err = privateKey(key)
	return &c, err
}

func (r *program) save(c *configuration) error {
	cred := message.Credentials{Scheme: "OAuth", Data: map[string]string{"clientId": c.clientID, "authorizationUrl": c.authorizationURL, "requireFipsCryptography": "false"}}
	for i, v := range []any{c.settings, cred, rsaParams(c.key)} {
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("encode configuration: %w", err)
		}
		if err := os.WriteFile(filepath.Join(r.root, configFiles[i]), data, 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}

func (r *program) forget() {
	for _, name := range configFiles {
		_ = os.Remove(filepath.Join(r.root, name)) // a file that is gone is what we want
	}
}

func privateKey(p message.RSAParams) (*rsa.PrivateKey, error) {
	ints := map[string]*big.Int{}
	for name, text := range map[string]string{"d": p.D, "exponent": p.Exponent, "modulus": p.Modulus, "p": p.P, "q": p.Q} {
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(data) == 0 {
			return nil, fmt.Errorf("%s of the RSA key is missing or not base64", name)
		}
		ints[name] = new(big.Int).SetBytes(data)
	}
	if !ints["exponent"].IsInt64() || ints["exponent"].Int64() > 1<<31-1 {
		return nil, errors.New("exponent of the RSA key is too large")
	}
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: ints["modulus"], E: int(ints["exponent"].Int64())}, D: ints["d"], Primes: []*big.Int{ints["p"], ints["q"]}}
	key.Precompute()
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("RSA key: %w", err)
	}
	return key, nil
}

func rsaParams(k *rsa.PrivateKey) message.RSAParams {
	k.Precompute()
	b := func(i *big.Int) string { return base64.StdEncoding.EncodeToString(i.Bytes()) }
	return message.RSAParams{D: b(k.D), DP: b(k.Precomputed.Dp), DQ: b(k.Precomputed.Dq), InverseQ: b(k.Precomputed.Qinv),
		Exponent: b(big.NewInt(int64(k.E))), Modulus: b(k.N), P: b(k.Primes[0]), Q: b(k.Primes[1])}
}
