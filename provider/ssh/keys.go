package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// readIdentity reads a private key, and the certificate beside it.
func readIdentity(file string) ([]gossh.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	signer, err := gossh.ParsePrivateKey(text)
	if _, locked := errors.AsType[*gossh.PassphraseMissingError](err); locked {
		return nil, fmt.Errorf("%s has a passphrase: add it to an ssh-agent and name the agent_socket", file)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no private key: %w", file, err)
	}
	text, err = os.ReadFile(file + "-cert.pub")
	if errors.Is(err, fs.ErrNotExist) {
		return []gossh.Signer{signer}, nil
	}
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := gossh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s-cert.pub: %w", file, err)
	}
	cert, ok := key.(*gossh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s-cert.pub is no certificate", file)
	}
	certified, err := gossh.NewCertSigner(cert, signer)
	if err != nil {
		return nil, fmt.Errorf("%s-cert.pub: %w", file, err)
	}
	return []gossh.Signer{certified, signer}, nil
}

// login reads the keys to log in with, afresh for every connection: they may have
// been replaced, a certificate lives for hours only. done closes what it opened.
func (c Config) login(ctx context.Context) (auth []gossh.AuthMethod, done func(), err error) {
	done = func() {}
	var signers []gossh.Signer
	for _, file := range c.IdentityFiles {
		more, err := readIdentity(file)
		if err != nil {
			return nil, done, fmt.Errorf("identity_files: %w", err)
		}
		signers = append(signers, more...)
	}
	if c.AgentSocket != "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.AgentSocket)
		if err != nil {
			return nil, done, fmt.Errorf("agent_socket: %w; is the ssh-agent running?", err)
		}
		done = func() { _ = conn.Close() } // only read from
		more, err := agent.NewClient(conn).Signers()
		if err != nil {
			done()
			return nil, func() {}, fmt.Errorf("agent_socket: list keys: %w", err)
		}
		signers = append(signers, more...)
	}
	if len(signers) == 0 {
		done()
		return nil, func() {}, errors.New("there is no key to log in with: the ssh-agent has none")
	}
	return []gossh.AuthMethod{gossh.PublicKeys(signers...)}, done, nil
}

// hostKeyError says that a host is not the one that it should be.
type hostKeyError struct{ text string }

func (e *hostKeyError) Error() string { return e.text }

// families are the algorithms of each kind of host key, the best first. A host has
// several keys and shows one of the first family that both sides know.
var families = [][]string{
	{gossh.KeyAlgoED25519},
	{gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521},
	{gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256},
}

var certFamilies = []string{
	gossh.CertAlgoED25519v01, gossh.CertAlgoECDSA256v01, gossh.CertAlgoECDSA384v01, gossh.CertAlgoECDSA521v01,
	gossh.CertAlgoRSASHA512v01, gossh.CertAlgoRSASHA256v01,
}

// proof is how a host proves who it is, and the algorithms to ask it with, one list
// after another until one of its keys is the expected one.
type proof struct {
	check gossh.HostKeyCallback
	tries [][]string
}

// prove returns what to expect of the host at an address ("name:port").
func (c Config) prove(name, address, hostKey string) (proof, error) {
	if hostKey != "" {
		want, err := parsePin(hostKey)
		if err != nil {
			return proof{}, fmt.Errorf("host_key: %w", err)
		}
		p := proof{tries: families}
		if want.key != nil {
			p.tries = [][]string{family(want.key.Type())}
		}
		p.check = func(_ string, _ net.Addr, key gossh.PublicKey) error {
			if have := gossh.FingerprintSHA256(key); have != want.fingerprint {
				return &hostKeyError{fmt.Sprintf("host %s shows the %s key %s, and host_key says %s: somebody may be in between; if the host was set up anew, ask it for its key on another way and change host_key", name, key.Type(), have, want.fingerprint)}
			}
			return nil
		}
		return p, nil
	}
	known, err := readKnownHosts(c.KnownHosts)
	if err != nil {
		return proof{}, fmt.Errorf("known_hosts: %w", err)
	}
	p := proof{check: func(host string, remote net.Addr, key gossh.PublicKey) error {
		err := known(host, remote, key)
		if err == nil {
			return nil
		}
		have := gossh.FingerprintSHA256(key)
		why := err.Error()
		if wrong, ok := errors.AsType[*knownhosts.KeyError](err); ok && len(wrong.Want) == 0 {
			why = "the file has no line for it"
		} else if ok {
			why = "the file has another one: somebody may be in between"
		}
		return &hostKeyError{fmt.Sprintf("host %s shows the %s key %s, which %s does not confirm (%s); compare it on the host with ssh-keygen -lf, then set host_key or correct the file", name, key.Type(), have, c.KnownHosts, why)}
	}}
	// A key that nobody has tells which ones are expected.
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		return proof{}, err
	}
	nobody, err := gossh.NewPublicKey(public)
	if err != nil {
		return proof{}, err
	}
	if wrong, ok := errors.AsType[*knownhosts.KeyError](known(address, &net.TCPAddr{}, nobody)); ok {
		for _, k := range wrong.Want {
			if f := family(k.Key.Type()); !slices.ContainsFunc(p.tries, func(have []string) bool { return slices.Equal(have, f) }) {
				p.tries = append(p.tries, f)
			}
		}
	}
	if text, err := os.ReadFile(c.KnownHosts); err == nil && bytes.Contains(text, []byte("@cert-authority")) {
		p.tries = append([][]string{certFamilies}, p.tries...)
	}
	if len(p.tries) == 0 {
		p.tries = [][]string{nil} // to say which key it shows
	}
	return p, nil
}

// family is the algorithms of one type of key.
func family(keyType string) []string {
	for _, f := range families {
		if slices.Contains(f, keyType) || keyType == gossh.KeyAlgoRSA && f[0] == gossh.KeyAlgoRSASHA512 {
			return f
		}
	}
	return []string{keyType}
}

func readKnownHosts(file string) (gossh.HostKeyCallback, error) {
	known, err := knownhosts.New(file)
	if err != nil {
		return nil, fmt.Errorf("%w; make the file with ssh-keyscan and compare its keys, or set host_key", err)
	}
	return known, nil
}

// refusedLogin says what to do about a host that takes none of our keys.
func refusedLogin(err error, user string) error {
	if err != nil && strings.Contains(err.Error(), "unable to authenticate") {
		return fmt.Errorf("%w; the host takes none of our keys: is the public key in ~%s/.ssh/authorized_keys, with nothing writable by others on the way?", err, user)
	}
	return err
}
