package secretbox

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/muster-ci/muster"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// A sealed text is: version, key id, salt, nonce, ciphertext with tag.
const (
	version    = 1
	idSize     = 4
	saltSize   = 16
	nonceSize  = 12
	tagSize    = 16
	headerSize = 1 + idSize + saltSize + nonceSize
)

// Box seals and opens bytes with one or more keys: the first key seals, every
// key opens, so a key is rotated by putting a new one before it. The zero Box is
// not usable; make one with Load or New. Safe for concurrent use.
type Box struct {
	keys []key
}

type key struct {
	id   [idSize]byte
	root []byte
}

// New makes a Box from keys of KeySize bytes each, the sealing key first. The
// error is CodeInvalid when there is no key, one of another length, or one twice.
func New(keys ...[]byte) (*Box, error) {
	if len(keys) == 0 {
		return nil, muster.Errorf(muster.CodeInvalid, "no encryption key: give at least one of %d bytes", KeySize)
	}
	b := &Box{}
	for i, k := range keys {
		if len(k) != KeySize {
			return nil, muster.Errorf(muster.CodeInvalid, "encryption key %d has %d bytes: a key has %d", i+1, len(k), KeySize)
		}
		id, err := derive(k, nil, "muster key id", idSize)
		if err != nil {
			return nil, err
		}
		made := key{id: [idSize]byte(id), root: bytes.Clone(k)}
		if _, ok := b.find(made.id[:]); ok {
			return nil, muster.Errorf(muster.CodeInvalid, "encryption key %d is there twice", i+1)
		}
		b.keys = append(b.keys, made)
	}
	return b, nil
}

// Load reads the keys of a Box from a file: one key per line in base64, the
// sealing key first, or 32 raw bytes. A file that is absent is made, with a new
// random key, readable by its owner only. A file that its group or others may
// read is refused with CodeInvalid, as is one whose content is not keys.
func Load(path string) (*Box, error) {
	data, err := readKeys(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("create key file %s: %w", path, err)
		}
		data, err = readKeys(path)
	}
	if err != nil {
		return nil, err
	}
	if len(data) == KeySize {
		return New(data)
	}
	var keys [][]byte
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		k, err := base64.StdEncoding.AppendDecode(nil, line)
		if err != nil {
			return nil, muster.Errorf(muster.CodeInvalid, "key file %s: line %d is not a key in base64", path, len(keys)+1)
		}
		keys = append(keys, k)
	}
	box, err := New(keys...)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return box, nil
}

func readKeys(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of the opened file, so that the answer is about what is read
	if err != nil {
		return nil, fmt.Errorf("stat key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, muster.Errorf(muster.CodeInvalid, "key file %s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, muster.Errorf(muster.CodeInvalid, "key file %s has mode %04o and may be read by others: chmod 600 it", path, perm)
	}
	const maxKeyFile = 64 << 10
	if info.Size() > maxKeyFile {
		return nil, muster.Errorf(muster.CodeInvalid, "key file %s has %d bytes: it holds no keys", path, info.Size())
	}
	data := make([]byte, info.Size())
	if _, err := f.ReadAt(data, 0); err != nil && info.Size() > 0 {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	return data, nil
}

// create writes a new key beside path and links it there, so that two processes
// starting together end with one key and nobody reads half of one.
func create(path string) error {
	var k [KeySize]byte
	rand.Read(k[:])
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(base64.StdEncoding.EncodeToString(k[:]) + "\n")
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Seal encrypts plaintext with AES-256-GCM under a key that is derived anew for
// each call, so any number of texts may be sealed with one key. Purpose says
// what the text is for; Open needs the same words. The output is 49 bytes longer
// than the input and reveals its length and the key's id, nothing else.
func (b *Box) Seal(purpose string, plaintext []byte) ([]byte, error) {
	k := b.keys[0]
	out := make([]byte, headerSize, headerSize+len(plaintext)+tagSize)
	out[0] = version
	copy(out[1:], k.id[:])
	rand.Read(out[1+idSize:])
	aead, err := k.aead(out[1+idSize:1+idSize+saltSize], purpose)
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, out[headerSize-nonceSize:headerSize], plaintext, out[:1+idSize]), nil
}

// Open returns what Seal was given. The error is CodeInvalid when sealed was
// altered, cut, sealed for another purpose, or sealed with a key that the Box
// does not have; it does not say which of the first three.
func (b *Box) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < headerSize+tagSize || sealed[0] != version {
		return nil, muster.Errorf(muster.CodeInvalid, "this is no sealed text")
	}
	k, ok := b.find(sealed[1 : 1+idSize])
	if !ok {
		return nil, muster.Errorf(muster.CodeInvalid, "sealed with key %x, which the key file does not hold: put that key back after the first", sealed[1:1+idSize])
	}
	aead, err := k.aead(sealed[1+idSize:1+idSize+saltSize], purpose)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, sealed[headerSize-nonceSize:headerSize], sealed[headerSize:], sealed[:1+idSize])
	if err != nil {
		return nil, muster.Errorf(muster.CodeInvalid, "sealed text does not open: it was altered or is for another purpose")
	}
	return plain, nil
}

// Derive returns a secret of KeySize bytes for a purpose from each key, that of the sealing
// key first: the same keys, the same secrets. They reveal nothing about the keys, about each
// other, or about what is sealed.
func (b *Box) Derive(purpose string) ([][]byte, error) {
	var out [][]byte
	for _, k := range b.keys {
		secret, err := derive(k.root, nil, "muster secret\x00"+purpose, KeySize)
		if err != nil {
			return nil, err
		}
		out = append(out, secret)
	}
	return out, nil
}

// KeyID names the key that seals, in hex. It is not secret.
func (b *Box) KeyID() string { return fmt.Sprintf("%x", b.keys[0].id) }

func (b *Box) find(id []byte) (key, bool) {
	for _, k := range b.keys {
		if bytes.Equal(k.id[:], id) {
			return k, true
		}
	}
	return key{}, false
}

func (k key) aead(salt []byte, purpose string) (cipher.AEAD, error) {
	sub, err := derive(k.root, salt, "muster seal\x00"+purpose, KeySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

func derive(root, salt []byte, info string, n int) ([]byte, error) {
	out, err := hkdf.Key(sha256.New, root, salt, info, n)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return out, nil
}
