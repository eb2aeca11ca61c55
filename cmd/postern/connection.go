package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/cmd/postern/client"
)

// connection is what the flags of a command say about how to reach a server.
type connection struct{ client.Connection }

// Where a server listens that was not told otherwise.
const (
	defaultServer = "127.0.0.1:9191"
	defaultAdmin  = "127.0.0.1:9192"
)

// flags adds the flags of a connection. The name is that of the listener.
func (c *connection) flags(cmd *cobra.Command, name, address string) {
	c.wireFlags(cmd, name, address)
	cmd.Flags().StringVar(&c.TokenFile, "caller-token-file", "", "file with the token of a caller, if the server's list asks for one")
}

// wireFlags are those of a connection without who is asking.
func (c *connection) wireFlags(cmd *cobra.Command, name, address string) {
	f := cmd.Flags()
	f.StringVar(&c.Address, name, address, "address of the server: host:port or unix:///path")
	f.BoolVar(&c.TLS, "tls", false, "use TLS with the system's authorities (implied by --ca and --cert)")
	f.StringVar(&c.CA, "ca", "", "PEM file of the authorities for the server's certificate")
	f.StringVar(&c.Cert, "cert", "", "PEM file of the client's certificate")
	f.StringVar(&c.Key, "key", "", "PEM file of the client's key")
	f.DurationVar(&c.Timeout, "timeout", 5*time.Second, "how long to wait for the answer")
}
