package githubsim

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"sync"

	"github.com/muster-ci/muster/githubsim/workflow/message"
)

// keyPool holds the RSA keys that JIT runners share. Making one takes longer than
// everything else in a JIT answer, and a runner is told apart by its client id:
// so there is one key at first, and a few more for a busy server, which are made
// in the background.
type keyPool struct {
	given *rsa.PrivateKey // Config.RunnerKey
	first sync.Once
	work  sync.WaitGroup

	mu    sync.Mutex
	keys  []jitKey
	taken int
}

type jitKey struct {
	key    *rsa.PrivateKey
	params string // the file .credentials_rsaparams, in base64
}

// take returns a key; only the very first call waits for one to be made.
func (p *keyPool) take() jitKey {
	p.first.Do(func() {
		if p.given != nil {
			p.put(p.given)
		} else {
			p.add()
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken++
	switch p.taken {
	case 16, 64, 256:
		if p.given == nil {
			p.work.Go(p.add)
		}
	}
	return p.keys[p.taken%len(p.keys)]
}

func (p *keyPool) add() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		// crypto/rand never fails on the platforms that Go supports.
		panic("githubsim: make an RSA key: " + err.Error())
	}
	p.put(key)
}

func (p *keyPool) put(key *rsa.PrivateKey) {
	one := jitKey{key, base64.StdEncoding.EncodeToString(encode(rsaParams(key)))}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = append(p.keys, one)
}

func (p *keyPool) wait() { p.work.Wait() }

func rsaParams(k *rsa.PrivateKey) message.RSAParams {
	part := func(n *big.Int) string { return base64.StdEncoding.EncodeToString(n.Bytes()) }
	k.Precompute()
	return message.RSAParams{
		D: part(k.D), DP: part(k.Precomputed.Dp), DQ: part(k.Precomputed.Dq), Exponent: part(big.NewInt(int64(k.E))),
		InverseQ: part(k.Precomputed.Qinv), Modulus: part(k.N), P: part(k.Primes[0]), Q: part(k.Primes[1]),
	}
}

// publicKey reads what config.sh sends.
func publicKey(k message.PublicKey) (*rsa.PublicKey, error) {
	n, err := base64.StdEncoding.DecodeString(k.Modulus)
	if err != nil {
		return nil, err
	}
	e, err := base64.StdEncoding.DecodeString(k.Exponent)
	if err != nil {
		return nil, err
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
}
