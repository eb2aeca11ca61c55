package server

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/postern-auth/postern/server/regular"
)

// maxPEM is far more than any chain or list of CAs.
const maxPEM = 4 << 20

// protocols are offered by ALPN; HTTP/1.1 is for metrics and health.
var protocols = []string{"h2", "http/1.1"}

// certificates is the server's side of TLS. A handshake takes the material in
// force at that moment; Reload swaps it whole, or keeps it and says why.
type certificates struct {
	cfg     TLS
	current atomic.Pointer[material]
}

type material struct {
	config *tls.Config
	digest [32]byte // of the files, to see whether they changed
}

func newCertificates(cfg TLS) (*certificates, error) {
	c := &certificates{cfg: cfg}
	_, err := c.Reload()
	return c, err
}

// Reload reads the files again and reports whether anything changed.
func (c *certificates) Reload() (changed bool, err error) {
	next, err := c.load()
	if err != nil {
		return false, err
	}
	if old := c.current.Load(); old != nil && old.digest == next.digest {
		return false, nil
	}
	c.current.Store(next)
	return true, nil
}

func (c *certificates) load() (*material, error) {
	cert, err := regular.ReadFile(c.cfg.Cert.String(), maxPEM)
	if err != nil {
		return nil, fmt.Errorf("tls.cert: %w", err)
	}
	key, err := regular.ReadFile(c.cfg.Key.String(), maxPEM)
	if err != nil {
		return nil, fmt.Errorf("tls.key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("tls.cert and tls.key: %w", err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   protocols,
	}
	if c.cfg.MinVersion == TLS12 {
		config.MinVersion = tls.VersionTLS12
	}
	digest := sha256.New()
	digest.Write(cert)
	digest.Write(key)
	if ca := c.cfg.ClientCA.String(); ca != "" {
		pem, err := regular.ReadFile(ca, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("tls.client_ca: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("tls.client_ca: no certificate in the file")
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
		config.VerifyConnection = checkClient
		digest.Write(pem)
	}
	m := &material{config: config}
	digest.Sum(m.digest[:0])
	return m, nil
}

// checkClient refuses in the handshake what a chain to the CA does not rule out: a CA's
// own certificate, keys that are too short, and certificates that name nobody but in
// their subject, which no program may look at (RFC 9525 section 2).
func checkClient(s tls.ConnectionState) error {
	leaf := s.PeerCertificates[0]
	key, isRSA := leaf.PublicKey.(*rsa.PublicKey)
	switch {
	case isRSA && key.Size()*8 < minRSA:
		return fmt.Errorf("the client's RSA key has %d bits, at least %d are asked for", key.Size()*8, minRSA)
	case leaf.IsCA:
		return errors.New("the client's certificate is that of a CA")
	case len(leaf.URIs)+len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) == 0:
		return errors.New("the client's certificate has no subject alternative name")
	}
	return nil
}

// minRSA is the least length of an RSA key in bits (NIST SP 800-131A, RFC 9325 section
// 4.5).
const minRSA = 2048

// config is what listeners are given: every handshake asks for the current one.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12, // the current configuration says what really counts
		NextProtos:         protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load().config, nil },
	}
}
