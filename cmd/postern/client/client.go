// Package client reaches the listeners of a server from the command line: over gRPC, with
// TLS or without, as the bearer of a caller's token, and with words for what went wrong.
//
// A Connection is what the flags of a command say. Every command that asks a server holds
// one, so that each of them connects, shows who is asking and explains a failure alike.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Connection says how to reach a server, and as whom. The zero value reaches nobody.
type Connection struct {
	// Address is that of a listener: host:port or unix:///path.
	Address string
	// TLS has the system's authorities vouch for the server. CA and Cert imply it.
	TLS bool
	// CA is the PEM file of the authorities for the server's certificate; empty for those
	// of the system.
	CA string
	// Cert and Key are the PEM files of the client's certificate; both or none.
	Cert, Key string
	// TokenFile holds the token of a caller in the server's list; empty if it asks for none.
	TokenFile string
	// Timeout is how long an answer may take.
	Timeout time.Duration
}

// Dial connects. A call over it carries the caller's token, and ends after the timeout, if
// its context is of Context.
func (c *Connection) Dial() (*grpc.ClientConn, error) {
	switch {
	case c.Address == "":
		return nil, errors.New("the address of the server is empty")
	case (c.Cert == "") != (c.Key == ""):
		return nil, errors.New("--cert and --key belong together")
	}
	creds := insecure.NewCredentials()
	if c.Encrypted() {
		config, err := c.TLSConfig()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(config)
	}
	return grpc.NewClient(c.Address, grpc.WithTransportCredentials(creds))
}

// Encrypted reports whether the server is reached by TLS.
func (c *Connection) Encrypted() bool { return c.TLS || c.CA != "" || c.Cert != "" }

// TLSConfig is TLS 1.2 or later with the authorities and the certificate of the files.
func (c *Connection) TLSConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", c.CA)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Context is that of one call, which ends after the timeout and carries the caller's
// token. The error is that of the file of the token.
func (c *Connection) Context(ctx context.Context) (context.Context, context.CancelFunc, error) {
	token, err := c.Token()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	if c.TokenFile == "" {
		return ctx, cancel, nil
	}
	return WithBearer(ctx, token), cancel, nil
}

// Token is the token of the caller, without the white space around it; empty if there is
// no file of it.
func (c *Connection) Token() (string, error) {
	if c.TokenFile == "" {
		return "", nil
	}
	token, err := os.ReadFile(c.TokenFile)
	return strings.TrimSpace(string(token)), err
}

// WithBearer is a context whose calls over gRPC carry a bearer token.
func WithBearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(token))
}

// symptoms are what grpc-go says when it cannot connect, and what helps.
var symptoms = []struct{ text, hint string }{
	{"connection refused", "nothing listens there; is the server running? (postern serve)"},
	{"no such file", "nothing listens there; is the server running? (postern serve)"},
	{"no such host", "there is no such host"},
	{"certificate required", "the server wants a client certificate: give --cert and --key"},
	{"bad certificate", "the server does not accept the client certificate"},
	{"unknown certificate authority", "the server does not know who signed the client certificate"},
	{"unknown authority", "who signed the server's certificate is not known here: give --ca"},
	{"first record does not look like a TLS handshake", "the server speaks no TLS: leave out --tls, --ca and --cert"},
	{"x509: ", "the server's certificate is not good for this address"},
	{"error reading server preface", "perhaps the server speaks TLS: give --tls or --ca"},
	{"deadline exceeded", "there was no answer in time; --timeout waits longer"},
}

// ExplainRPC turns a gRPC error into what a person can act on.
func (c *Connection) ExplainRPC(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return c.NoAnswer(s)
	case codes.PermissionDenied:
		return fmt.Errorf("%s; show who is asking with --cert and --key, or --caller-token-file", s.Message())
	case codes.Unimplemented:
		return fmt.Errorf("%s does not serve this; check and explain talk to different listeners (--server, --admin)", c.Address)
	}
	return errors.New(s.Message())
}

// NoAnswer says why there was none, and what helps if that is known.
func (c *Connection) NoAnswer(s *status.Status) error {
	for _, known := range symptoms {
		if strings.Contains(s.Message(), known.text) {
			return fmt.Errorf("no answer from %s: %s", c.Address, known.hint)
		}
	}
	return fmt.Errorf("no answer from %s: %s", c.Address, s.Message())
}
