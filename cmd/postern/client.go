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
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// connection says how to reach a server.
type connection struct {
	address             string
	ca, cert, key       string
	tls                 bool
	tokenFile           string
	timeout             time.Duration
	defaultPort, naming string
}

// flags adds the flags of a connection. The name is that of the listener.
func (c *connection) flags(cmd *cobra.Command, name, address string) {
	f := cmd.Flags()
	f.StringVar(&c.address, name, address, "address of the server: host:port or unix:///path")
	f.BoolVar(&c.tls, "tls", false, "use TLS with the system's authorities (implied by --ca and --cert)")
	f.StringVar(&c.ca, "ca", "", "PEM file of the authorities for the server's certificate")
	f.StringVar(&c.cert, "cert", "", "PEM file of the client's certificate")
	f.StringVar(&c.key, "key", "", "PEM file of the client's key")
	f.StringVar(&c.tokenFile, "caller-token-file", "", "file with the token of a caller, if the server's list asks for one")
	f.DurationVar(&c.timeout, "timeout", 5*time.Second, "how long to wait for the answer")
}

// dial connects; a call then carries the caller's token and the timeout.
func (c *connection) dial() (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c.tls || c.ca != "" || c.cert != "" {
		config, err := c.tlsConfig()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(config)
	}
	return grpc.NewClient(c.address, grpc.WithTransportCredentials(creds))
}

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
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token))), cancel, nil
}

// explainRPC turns a gRPC error into what a person can act on.
func (c *connection) explainRPC(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch {
	case strings.Contains(s.Message(), "connection refused"), strings.Contains(s.Message(), "no such file"):
		return fmt.Errorf("nothing listens on %s; is the server running? (postern serve)", c.address)
	case strings.Contains(s.Message(), "context deadline exceeded"):
		return fmt.Errorf("no answer from %s within %v", c.address, c.timeout)
	}
	return errors.New(strings.ToLower(s.Code().String()) + ": " + s.Message())
}
