// Package outbound makes the HTTP clients with which Postern asks others: for
// key sets, whether a token is active, what a token of a vault may do.
//
// Whom they ask decides who may call, and some of the addresses come from outside:
// from a discovery document, or from a name whose DNS somebody else controls. So a
// client of this package is held narrowly:
//
//	https        http only where the configuration says that it may be
//	one place    no redirects, no cookies, no proxy from the environment
//	outside      an address of the inside network is refused when the connection is
//	             made, on the resolved address: a name that resolves differently the
//	             second time gains nothing. Some addresses no option opens
//	bounds       on the whole exchange in time, on headers and bodies in decoded bytes
//	quiet        no error repeats a query, a header or a body
//
// A client is made with NewClient, a URL that was configured or found read with
// ParseURL, a request sent with Do, and its answer read with ReadBody. IsNetwork then
// tells "could not be talked to" from "must not be talked to".
package outbound

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/postern-auth/postern/server/regular"
)

// Config says how a client connects. The zero value is good: https to public
// addresses, with the authorities of the system.
type Config struct {
	// Timeout bounds one request as a whole, the last byte of the answer included.
	// Default 5s, and 500ms for introspection; at most 1m.
	Timeout time.Duration `yaml:"timeout"`
	// CAFile is a PEM file of the authorities that the server's certificate must
	// come from. Default: those of the system.
	CAFile string `yaml:"ca_file"`
	// ClientCertFile and ClientKeyFile are PEM files of the certificate, with its
	// chain, and the key by which Postern proves itself to the server. They are read
	// again for each connection, so that a renewed certificate needs no restart.
	ClientCertFile string `yaml:"client_cert_file"`
	ClientKeyFile  string `yaml:"client_key_file"`
	// InsecureAllowHTTP permits http. Danger: who can change packets on the way
	// decides what the answers are, and reads every secret that is sent.
	InsecureAllowHTTP bool `yaml:"insecure_allow_http"`
	// InsecureAllowPrivateAddresses permits servers on loopback and private
	// addresses. Danger: who controls the DNS of the server's name can make Postern
	// send its requests, secrets included, to servers inside. Link-local addresses
	// and the metadata services of clouds stay refused.
	InsecureAllowPrivateAddresses bool `yaml:"insecure_allow_private_addresses"`

	// KeepConnections is how many idle connections are kept for the next request.
	// With 0 each request has its own, which finds a server that moved.
	KeepConnections int `yaml:"-"`
	// Transport replaces the network, and with it all checks of addresses and
	// certificates: for tests.
	Transport http.RoundTripper `yaml:"-"`
}

// DefaultTimeout is the Timeout of a Config that sets none.
const DefaultTimeout = 5 * time.Second

// The bounds of every client, and the longest Timeout.
const (
	maxTimeout     = time.Minute
	maxHeaderBytes = 64 << 10
	maxPEMBytes    = 1 << 20
	idleTimeout    = time.Minute
)

// ErrTooLarge says that a body is longer than its limit.
var ErrTooLarge = errors.New("too large")

// Check reports whatever is wrong: path is the field's name in the configuration,
// suggestion what to do. It reads no file.
func (c *Config) Check(report func(path, message, suggestion string)) {
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		report("timeout", fmt.Sprintf("is %s, more than 0s and at most %s is accepted", c.Timeout, maxTimeout), "leave it out for the default")
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		report("client_cert_file", "client_cert_file and client_key_file go together", "set both, or neither")
	}
}

// NewClient returns a client that keeps to the Config. It is safe for concurrent
// use; its CloseIdleConnections ends what it holds. Errors name files, and nothing
// of what is in them.
func NewClient(cfg Config) (*http.Client, error) {
	transport := cfg.Transport
	if transport == nil {
		t, err := newTransport(&cfg)
		if err != nil {
			return nil, err
		}
		transport = t
	}
	return &http.Client{
		Transport: transport,
		Timeout:   cmp.Or(cfg.Timeout, DefaultTimeout),
		// Where answers come from is for the configuration to say, not for whoever
		// answers.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// newTransport returns a transport that connects to permitted addresses only,
// directly: a proxy would resolve the name itself, out of reach of the check.
func newTransport(cfg *Config) (*http.Transport, error) {
	secured, err := cfg.TLS()
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		DialContext:            newDialer(cfg.InsecureAllowPrivateAddresses).DialContext,
		TLSClientConfig:        secured,
		DisableKeepAlives:      cfg.KeepConnections == 0,
		MaxIdleConns:           cfg.KeepConnections,
		MaxIdleConnsPerHost:    cfg.KeepConnections,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
	}, nil
}

// TLS returns the client's side of TLS as the Config says, for a protocol that is not
// HTTP. Errors name files, and nothing of what is in them.
func (c *Config) TLS() (*tls.Config, error) {
	secured := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := regular.ReadFile(c.CAFile, maxPEMBytes)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		secured.RootCAs = x509.NewCertPool()
		if !secured.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca_file: no certificate in PEM")
		}
	}
	if c.ClientCertFile != "" || c.ClientKeyFile != "" {
		if _, err := c.clientCertificate(); err != nil {
			return nil, err
		}
		own := *c
		secured.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return own.clientCertificate()
		}
	}
	return secured, nil
}

func (c *Config) clientCertificate() (*tls.Certificate, error) {
	cert, err := regular.ReadFile(c.ClientCertFile, maxPEMBytes)
	if err != nil {
		return nil, fmt.Errorf("client_cert_file: %w", err)
	}
	key, err := regular.ReadFile(c.ClientKeyFile, maxPEMBytes)
	if err != nil {
		return nil, fmt.Errorf("client_key_file: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("client_cert_file and client_key_file: %w", err)
	}
	return &pair, nil
}

func readAll(from io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return data, nil
}
