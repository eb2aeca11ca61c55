package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// connection says how to reach a server.
type connection struct {
	address       string
	ca, cert, key string
	tls           bool
	tokenFile     string
	timeout       time.Duration
}

// Where a server listens that was not told otherwise.
const (
	defaultServer = "127.0.0.1:9191"
	defaultAdmin  = "127.0.0.1:9192"
)

// flags adds the flags of a connection. The name is that of the listener.
func (c *connection) flags(cmd *cobra.Command, name, address string) {
	c.wireFlags(cmd, name, address)
	cmd.Flags().StringVar(&c.tokenFile, "caller-token-file", "", "file with the token of a caller, if the server's list asks for one")
}

// wireFlags are those of a connection without who is asking.
func (c *connection) wireFlags(cmd *cobra.Command, name, address string) {
	f := cmd.Flags()
	f.StringVar(&c.address, name, address, "address of the server: host:port or unix:///path")
	f.BoolVar(&c.tls, "tls", false, "use TLS with the system's authorities (implied by --ca and --cert)")
	f.StringVar(&c.ca, "ca", "", "PEM file of the authorities for the server's certificate")
	f.StringVar(&c.cert, "cert", "", "PEM file of the client's certificate")
	f.StringVar(&c.key, "key", "", "PEM file of the client's key")
	f.DurationVar(&c.timeout, "timeout", 5*time.Second, "how long to wait for the answer")
}

// dial connects; a call then carries the caller's token and the timeout.
func (c *connection) dial() (*grpc.ClientConn, error) {
	switch {
	case c.address == "":
		return nil, errors.New("the address of the server is empty")
	case (c.cert == "") != (c.key == ""):
		return nil, errors.New("--cert and --key belong together")
	}
	creds := insecure.NewCredentials()
	if c.encrypted() {
		config, err := c.tlsConfig()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(config)
	}
	return grpc.NewClient(c.address, grpc.WithTransportCredentials(creds))
}

func (c *connection) encrypted() bool { return c.tls || c.ca != "" || c.cert != "" }

func (c *connection) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", c.ca)
		}
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (c *connection) context(ctx context.Context) (context.Context, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	if c.tokenFile == "" {
		return ctx, cancel, nil
	}
	token, err := os.ReadFile(c.tokenFile)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return withBearer(ctx, string(token)), cancel, nil
}

func withBearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(token))
}

// outgoing are the values of a field that a call with the context carries.
func outgoing(ctx context.Context, name string) []string {
	md, _ := metadata.FromOutgoingContext(ctx)
	return md.Get(name)
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

// explainRPC turns a gRPC error into what a person can act on.
func (c *connection) explainRPC(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return c.noAnswer(s)
	case codes.PermissionDenied:
		return fmt.Errorf("%s; show who is asking with --cert and --key, or --caller-token-file", s.Message())
	case codes.Unimplemented:
		return fmt.Errorf("%s does not serve this; check and explain talk to different listeners (--server, --admin)", c.address)
	}
	return errors.New(s.Message())
}

// noAnswer says why there was none, and what helps if that is known.
func (c *connection) noAnswer(s *status.Status) error {
	for _, known := range symptoms {
		if strings.Contains(s.Message(), known.text) {
			return fmt.Errorf("no answer from %s: %s", c.address, known.hint)
		}
	}
	return fmt.Errorf("no answer from %s: %s", c.address, s.Message())
}
