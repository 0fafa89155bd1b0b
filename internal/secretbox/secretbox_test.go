package secretbox_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/internal/secretbox"
	"pgregory.net/rapid"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, secretbox.KeySize) }

func newBox(t testing.TB, keys ...byte) *secretbox.Box {
	t.Helper()
	var ks [][]byte
	for _, k := range keys {
		ks = append(ks, key(k))
	}
	box, err := secretbox.New(ks...)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func newTokens(t testing.TB, keys ...byte) *secretbox.Tokens {
	t.Helper()
	tokens, err := secretbox.NewTokens(newBox(t, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// S4-60
func TestSealOpen(t *testing.T) {
	box := newBox(t, 1)
	rapid.Check(t, func(rt *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(rt, "plain")
		purpose := rapid.String().Draw(rt, "purpose")
		sealed, err := box.Seal(purpose, plain)
		if err != nil {
			rt.Fatal(err)
		}
		if len(sealed) != len(plain)+49 {
			rt.Fatalf("sealed has %d bytes for %d", len(sealed), len(plain))
		}
		opened, err := box.Open(purpose, sealed)
		if err != nil || !bytes.Equal(opened, plain) {
			rt.Fatalf("opened %x: %v", opened, err)
		}
		again, err := box.Seal(purpose, plain)
		if err != nil || bytes.Equal(again, sealed) {
			rt.Fatalf("sealing twice gives the same: %v", err)
		}
		if _, err := box.Open(purpose+"x", sealed); muster.CodeOf(err) != muster.CodeInvalid {
			rt.Fatalf("another purpose: %v", err)
		}
		i := rapid.IntRange(0, len(sealed)-1).Draw(rt, "byte")
		sealed[i] ^= byte(rapid.IntRange(1, 255).Draw(rt, "bits"))
		if _, err := box.Open(purpose, sealed); muster.CodeOf(err) != muster.CodeInvalid {
			rt.Fatalf("altered at %d: %v", i, err)
		}
		if _, err := box.Open(purpose, sealed[:i]); muster.CodeOf(err) != muster.CodeInvalid {
			rt.Fatalf("cut at %d: %v", i, err)
		}
	})
}

func TestSealHidesPlaintext(t *testing.T) {
	sealed, err := newBox(t, 1).Seal("p", bytes.Repeat([]byte("canary"), 100))
	if err != nil || bytes.Contains(sealed, []byte("canary")) {
		t.Fatalf("sealed: %q, %v", sealed, err)
	}
}

// The first key seals, every key opens. 4-34
func TestKeyRotation(t *testing.T) {
	before, during, after := newBox(t, 1), newBox(t, 2, 1), newBox(t, 2)
	old, err := before.Seal("p", []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := during.Seal("p", []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		box    *secretbox.Box
		sealed []byte
		ok     bool
	}{{during, old, true}, {during, fresh, true}, {after, fresh, true}, {after, old, false}, {before, fresh, false}} {
		_, err := c.box.Open("p", c.sealed)
		if (err == nil) != c.ok || err != nil && muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("open is %v, want ok %v", err, c.ok)
		}
	}
	if during.KeyID() != after.KeyID() || during.KeyID() == before.KeyID() {
		t.Error("the key id does not name the sealing key")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, keys := range [][][]byte{nil, {key(1)[:31]}, {key(1), key(1)}, {key(1), nil}} {
		if _, err := secretbox.New(keys...); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%d keys: %v", len(keys), err)
		}
	}
}

// A key file is made for its owner only, kept, and refused when others may read it. 4-14
func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	box, err := secretbox.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v", info.Mode(), err)
	}
	again, err := secretbox.Load(path)
	if err != nil || again.KeyID() != box.KeyID() {
		t.Fatalf("loaded again: %v", err)
	}
	// Rotation: a new line before the old one.
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := base64.StdEncoding.EncodeToString(key(9))
	if err := os.WriteFile(path, []byte(line+"\n\n"+string(old)), 0o600); err != nil {
		t.Fatal(err)
	}
	rotated, err := secretbox.Load(path)
	if err != nil || rotated.KeyID() == box.KeyID() {
		t.Fatalf("rotated: %v", err)
	}
	sealed, err := box.Seal("p", []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rotated.Open("p", sealed); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := secretbox.Load(path); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestLoadContent(t *testing.T) {
	for name, c := range map[string]struct {
		content []byte
		ok      bool
	}{
		"raw":       {key(1), true},
		"base64":    {[]byte(base64.StdEncoding.EncodeToString(key(1))), true},
		"empty":     {nil, false},
		"short":     {[]byte("AAAA\n"), false},
		"not keys":  {[]byte("-----BEGIN PRIVATE KEY-----\ncanary\n"), false},
		"too large": {bytes.Repeat([]byte("A"), 100<<10), false},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := secretbox.Load(path)
		if (err == nil) != c.ok || err != nil && (muster.CodeOf(err) != muster.CodeInvalid || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := secretbox.Load(t.TempDir()); muster.CodeOf(err) != muster.CodeInvalid {
		t.Errorf("directory: %v", err)
	}
	if _, err := secretbox.Load(filepath.Join(t.TempDir(), "absent", "key")); err == nil {
		t.Error("a key file in no directory")
	}
}

// Processes that start together end with one key.
func TestLoadTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			box, err := secretbox.Load(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = box.KeyID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("key ids differ: %v", ids)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Fatalf("files left: %v, %v", left, err)
	}
}

var (
	noon   = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	claims = secretbox.BootClaims{JTI: "jti-1", Runner: "r-0001", Workspace: "default", Pool: "gpu", Audience: "https://muster.example", ExpiresAt: noon.Add(24 * time.Hour)}
)

func mint(t testing.TB, tokens *secretbox.Tokens, c secretbox.BootClaims) string {
	t.Helper()
	token, err := tokens.Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(token) != "***" {
		t.Fatal("a printed boot token shows itself")
	}
	return token.Reveal()
}

// A boot token outlives a queue of 20 hours, says what it was minted with, and
// is over at its expiry. S2-11 4-10
func TestTokens(t *testing.T) {
	tokens := newTokens(t, 1)
	token := mint(t, tokens, claims)
	got, err := tokens.Verify(token, claims.Audience, noon.Add(20*time.Hour))
	if err != nil || got != claims {
		t.Fatalf("verified %+v: %v", got, err)
	}
	if _, err = tokens.Verify(token, claims.Audience, claims.ExpiresAt.Add(-time.Nanosecond)); err != nil {
		t.Error(err)
	}
	for _, now := range []time.Time{claims.ExpiresAt, noon.Add(48 * time.Hour)} {
		if _, err = tokens.Verify(token, claims.Audience, now); muster.CodeOf(err) != muster.CodeUnauthenticated {
			t.Errorf("at %v: %v", now, err)
		}
	}
	if _, err = tokens.Verify(token, "https://other.example", noon); muster.CodeOf(err) != muster.CodeForbidden {
		t.Errorf("another audience: %v", err)
	}
	if _, err = tokens.Verify(token, "https://other.example", noon.Add(48*time.Hour)); muster.CodeOf(err) != muster.CodeUnauthenticated {
		t.Errorf("expired, another audience: %v", err)
	}
}

// S2-6 4-10: a launch token carries the build request in S2's words, and its key's id;
// the public keys that are given out verify it.
func TestLaunchToken(t *testing.T) {
	tokens := newTokens(t, 2, 1)
	c := claims
	c.IssuedAt = noon
	c.Build = muster.BuildRequest{
		Owner: "acme", Repository: "web", RepositoryURL: "https://github.com/acme/web", GitHubURL: "https://github.com/acme",
		Labels: "self-hosted,gpu", Job: 4711,
	}
	token := mint(t, tokens, c)
	got, err := tokens.Verify(token, c.Audience, noon.Add(20*time.Hour)) // S2-11
	if err != nil || got != c {
		t.Fatalf("verified %+v: %v", got, err)
	}
	var keys struct {
		Keys []struct{ Kty, Crv, Kid, X string }
	}
	if err := json.Unmarshal(tokens.PublicKeys(), &keys); err != nil || len(keys.Keys) != 2 {
		t.Fatalf("keys %+v: %v", keys, err)
	}
	x, err := base64.RawURLEncoding.DecodeString(keys.Keys[0].X)
	if err != nil || keys.Keys[0].Kty != "OKP" || keys.Keys[0].Crv != "Ed25519" {
		t.Fatalf("key %+v: %v", keys.Keys[0], err)
	}
	read, err := jwt.Parse(token, func(tok *jwt.Token) (any, error) {
		if tok.Header["kid"] != keys.Keys[0].Kid {
			t.Errorf("kid %v", tok.Header["kid"])
		}
		return ed25519.PublicKey(x), nil
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithTimeFunc(func() time.Time { return noon }))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(read.Claims)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"owner":"acme"`, `"repositoryName":"web"`, `"repositoryURL":"https://github.com/acme/web"`, `"labels":["self-hosted","gpu"]`,
		`"workflowId":4711`, `"gitHubURL":"https://github.com/acme"`, `"exp":`, `"jti":`, `"aud":`, `"iat":`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestMintNeedsEverything(t *testing.T) {
	tokens := newTokens(t, 1)
	for i := range 6 {
		c := claims
		switch i {
		case 0:
			c.JTI = ""
		case 1:
			c.Runner = ""
		case 2:
			c.Workspace = ""
		case 3:
			c.Pool = ""
		case 4:
			c.Audience = ""
		case 5:
			c.ExpiresAt = time.Time{}
		}
		if _, err := tokens.Mint(c); muster.CodeOf(err) != muster.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Tokens of a key that went behind a new one stay good until the key is gone. 4-10
func TestTokenRotation(t *testing.T) {
	old := mint(t, newTokens(t, 1), claims)
	during := newTokens(t, 2, 1)
	if _, err := during.Verify(old, claims.Audience, noon); err != nil {
		t.Error(err)
	}
	fresh := mint(t, during, claims)
	if _, err := newTokens(t, 2).Verify(fresh, claims.Audience, noon); err != nil {
		t.Error(err)
	}
	for _, token := range []string{old} {
		if _, err := newTokens(t, 2).Verify(token, claims.Audience, noon); muster.CodeOf(err) != muster.CodeUnauthenticated {
			t.Errorf("a key that is gone: %v", err)
		}
	}
	if _, err := newTokens(t, 1).Verify(fresh, claims.Audience, noon); muster.CodeOf(err) != muster.CodeUnauthenticated {
		t.Errorf("a key that is not there yet: %v", err)
	}
}

func part(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// Nothing but a token that this control plane signed is taken, whatever its
// header claims. 4-10
func TestForgeries(t *testing.T) {
	tokens := newTokens(t, 1)
	genuine := mint(t, tokens, claims)
	pieces := strings.Split(genuine, ".")
	var header map[string]any
	raw, _ := base64.RawURLEncoding.DecodeString(pieces[0])
	if err := json.Unmarshal(raw, &header); err != nil {
		t.Fatal(err)
	}
	kid := header["kid"].(string)
	if header["alg"] != "EdDSA" {
		t.Fatalf("header %v", header)
	}
	mac := func(key []byte) string {
		unsigned := part(map[string]any{"alg": "HS256", "typ": "JWT", "kid": kid}) + "." + pieces[1]
		h := hmac.New(sha256.New, key)
		h.Write([]byte(unsigned))
		return unsigned + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	}
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	signed := func(kid any, c jwt.Claims) string {
		token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
		if kid != nil {
			token.Header["kid"] = kid
		}
		text, err := token.SignedString(stranger)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := jwt.MapClaims{"iss": "muster", "sub": "r-0001", "aud": claims.Audience, "exp": noon.Add(time.Hour).Unix(), "jti": "x", "ws": "default", "pool": "p"}
	changed := part(map[string]any{"iss": "muster", "sub": "r-0002", "aud": claims.Audience, "exp": noon.Add(time.Hour).Unix(), "jti": "x", "ws": "default", "pool": "p"})
	for name, token := range map[string]string{
		"empty":              "",
		"text":               "hello",
		"dots":               "..",
		"alg none":           part(map[string]any{"alg": "none", "typ": "JWT", "kid": kid}) + "." + pieces[1] + ".",
		"alg None":           part(map[string]any{"alg": "None", "typ": "JWT", "kid": kid}) + "." + pieces[1] + ".",
		"no signature":       pieces[0] + "." + pieces[1] + ".",
		"HS256 by kid":       mac([]byte(kid)),
		"HS256 by empty key": mac(nil),
		"stranger's key":     signed(kid, good),
		"unknown kid":        signed("nobody", good),
		"no kid":             signed(nil, good),
		"kid of other type":  signed(7, good),
		"changed claims":     pieces[0] + "." + changed + "." + pieces[2],
		"cut":                genuine[:len(genuine)-1],
		"appended":           genuine + "A",
		"too long":           strings.Repeat("A", 10_000),
		"swapped":            pieces[1] + "." + pieces[0] + "." + pieces[2],
		"newline":            genuine + "\n",
		"padded":             genuine + "=",
	} {
		_, err := tokens.Verify(token, claims.Audience, noon)
		if muster.CodeOf(err) != muster.CodeUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
		if len(token) > 5 && strings.Contains(muster.MessageOf(err), token) {
			t.Errorf("%s: the message repeats the token", name)
		}
	}
}

// A token of ours that lacks something is refused: none such was ever minted.
func TestTokenWithoutClaims(t *testing.T) {
	tokens := newTokens(t, 1)
	genuine := mint(t, tokens, claims)
	seed, err := hkdf.Key(sha256.New, key(1), nil, "muster boot token", ed25519.SeedSize)
	if err != nil {
		t.Fatal(err)
	}
	for _, lacks := range []string{"", "iss", "sub", "aud", "exp", "jti", "ws", "pool"} {
		c := jwt.MapClaims{"iss": "muster", "sub": "r-0001", "aud": claims.Audience, "exp": noon.Add(time.Hour).Unix(), "jti": "x", "ws": "default", "pool": "p"}
		delete(c, lacks)
		token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
		header, _, _ := jwt.NewParser().ParseUnverified(genuine, jwt.MapClaims{})
		token.Header["kid"] = header.Header["kid"]
		text, err := token.SignedString(ed25519.NewKeyFromSeed(seed))
		if err != nil {
			t.Fatal(err)
		}
		_, err = tokens.Verify(text, claims.Audience, noon)
		if lacks == "" && err != nil || lacks != "" && muster.CodeOf(err) != muster.CodeUnauthenticated {
			t.Errorf("without %q: %v", lacks, err)
		}
	}
	var zero secretbox.Tokens
	if _, err := zero.Verify(genuine, claims.Audience, noon); muster.CodeOf(err) != muster.CodeUnauthenticated {
		t.Errorf("zero Tokens: %v", err)
	}
}

func TestSession(t *testing.T) {
	token, hash := secretbox.NewSession([32]byte{1})
	if !strings.HasPrefix(token.Reveal(), "mss_") || len(token.Reveal()) != 47 || fmt.Sprintf("%v %+v %#v", token, token, token) != "*** *** ***" {
		t.Fatalf("token %q", token.Reveal())
	}
	if !bytes.Equal(hash, secretbox.SessionHash(token.Reveal())) || len(hash) != 32 || bytes.Contains(hash, []byte{1, 0, 0, 0}) {
		t.Fatalf("hash %x", hash)
	}
	other, otherHash := secretbox.NewSession([32]byte{2})
	if other == token || bytes.Equal(hash, otherHash) {
		t.Fatal("two sessions are one")
	}
}

// Verify takes anything without harm, and what it takes as genuine is genuine. 4-10
func FuzzVerify(f *testing.F) {
	tokens := newTokens(f, 1)
	genuine := mint(f, tokens, claims)
	f.Add(genuine)
	f.Add("")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add(strings.Replace(genuine, ".", "..", 1))
	f.Fuzz(func(t *testing.T, token string) {
		got, err := tokens.Verify(token, claims.Audience, noon)
		if err == nil && (got != claims || token != genuine) {
			t.Fatalf("%q is taken as %+v", token, got)
		}
		if code := muster.CodeOf(err); err != nil && code != muster.CodeUnauthenticated {
			t.Fatalf("%q: %v", token, err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	box := newBox(b, 1)
	plain := make([]byte, 1024)
	b.SetBytes(1024)
	for b.Loop() {
		if _, err := box.Seal("p", plain); err != nil {
			b.Fatal(err)
		}
	}
}

// A rotated box still has the secrets of its older keys, after its own.
func TestDerive(t *testing.T) {
	derive := func(purpose string, keys ...byte) [][]byte {
		t.Helper()
		out, err := newBox(t, keys...).Derive(purpose)
		if err != nil || len(out) != len(keys) {
			t.Fatal(out, err)
		}
		return out
	}
	before, after := derive("a", 1), derive("a", 2, 1)
	if !bytes.Equal(before[0], after[1]) || bytes.Equal(after[0], after[1]) || len(before[0]) != secretbox.KeySize {
		t.Errorf("%x, then %x", before, after)
	}
	if bytes.Equal(before[0], derive("b", 1)[0]) || bytes.Equal(before[0], key(1)) {
		t.Error("two purposes have one secret")
	}
}
