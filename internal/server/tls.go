package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/muster-ci/muster/internal/config"
)

// engineTLS is the TLS of an external engine, nil if none is configured.
func engineTLS(e config.Engine) (*tls.Config, error) {
	if e.CAFile == "" && e.CertFile == "" && e.ServerName == "" && e.APIKey == "" {
		return nil, nil
	}
	out := &tls.Config{ServerName: e.ServerName, MinVersion: tls.VersionTLS12}
	if e.CAFile != "" {
		pem, err := os.ReadFile(e.CAFile)
		if err != nil {
			return nil, fmt.Errorf("engine CA: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("engine CA %s holds no certificate in PEM", e.CAFile)
		}
	}
	if e.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("engine client certificate: %w", err)
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}
