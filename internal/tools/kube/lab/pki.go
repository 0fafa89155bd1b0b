package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pair is a key with its certificate.
type pair struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	der  []byte
}

// pki writes the keys of a cluster: pki DIR APISERVER-URL NODE IP…
func pki(args []string) error {
	if len(args) < 4 {
		return errors.New("pki DIR APISERVER-URL NODE IP…")
	}
	dir, server, node := args[0], args[1], args[2]
	addresses := []net.IP{net.IPv4(127, 0, 0, 1)}
	for _, a := range args[3:] {
		ip := net.ParseIP(a)
		if ip == nil {
			return fmt.Errorf("%q is no address", a)
		}
		addresses = append(addresses, ip)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := issue(pair{}, &x509.Certificate{Subject: pkix.Name{CommonName: "muster-test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature})
	if err != nil {
		return err
	}
	var failed []error
	write := func(name, kind string, der []byte) {
		failed = append(failed, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	keyDER := func(k *ecdsa.PrivateKey) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		failed = append(failed, err)
		return der
	}
	save := func(name string, p pair) {
		write(name+".crt", "CERTIFICATE", p.der)
		write(name+".key", "PRIVATE KEY", keyDER(p.key))
	}
	client := func(name string, groups ...string) pair {
		p, err := issue(ca, &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		failed = append(failed, err)
		return p
	}
	service := func(subject pkix.Name, names ...string) pair {
		p, err := issue(ca, &x509.Certificate{Subject: subject, DNSNames: names, IPAddresses: append(addresses, net.IPv4(10, 96, 0, 1)), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		failed = append(failed, err)
		return p
	}
	save("ca", ca)
	save("apiserver", service(pkix.Name{CommonName: "kube-apiserver"}, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"))
	save("kubelet-serving", service(pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}, node))
	save("apiserver-kubelet-client", client("kube-apiserver", "system:masters"))

	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&accounts.PublicKey)
	if err != nil {
		return err
	}
	write("sa.key", "PRIVATE KEY", keyDER(accounts))
	write("sa.pub", "PUBLIC KEY", public)
	for name, p := range map[string]pair{
		"admin":              client("admin", "system:masters"),
		"controller-manager": client("system:kube-controller-manager"),
		"scheduler":          client("system:kube-scheduler"),
		"kubelet":            client("system:node:"+node, "system:nodes"),
	} {
		failed = append(failed, os.WriteFile(filepath.Join(dir, name+".kubeconfig"), kubeconfig(server, ca, p, keyDER(p.key)), 0o600))
	}
	return errors.Join(failed...)
}

// issue signs a certificate; one without an issuer signs itself.
func issue(by pair, template *x509.Certificate) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return pair{}, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(48*time.Hour)
	if template.KeyUsage == 0 {
		template.KeyUsage = x509.KeyUsageDigitalSignature
	}
	if by.key == nil {
		by.key, by.cert = key, template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		return pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return pair{key, cert, der}, err
}

func kubeconfig(server string, ca, user pair, key []byte) []byte {
	block := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: me, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: test, context: {cluster: test, user: me}}]
current-context: test
`, server, block("CERTIFICATE", ca.der), block("CERTIFICATE", user.der), block("PRIVATE KEY", key))
	return b.Bytes()
}
