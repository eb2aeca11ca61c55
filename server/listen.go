package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"reflect"
	"sync/atomic"

	"github.com/postern-auth/postern/server/strictyaml"
)

// listen opens a listener. A socket file that nobody listens on any more is left
// over from a kill and removed. Connections that it closes on because of their number are
// counted in refused.
func listen(ctx context.Context, at Address, connections int, refused *atomic.Uint64) (net.Listener, error) {
	if at.Network() == "unix" {
		if conn, err := new(net.Dialer).DialContext(ctx, "unix", at.Target()); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("%s: somebody listens there already", at)
		} else if info, err := os.Lstat(at.Target()); err == nil && info.Mode()&os.ModeSocket != 0 {
			_ = os.Remove(at.Target())
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, at.Network(), at.Target())
	if err != nil {
		return nil, err
	}
	return newBounded(l, connections, refused), nil
}

// listeners are all that the server listens on; nil where it does not.
type listeners struct{ grpc, admin, http, gateway net.Listener }

// maxPages is how many connections the listeners of HTTP have at once.
const maxPages = 100

// listenAll opens all of them or none. The one of gRPC does TLS by itself.
func (s *Server) listenAll(ctx context.Context, cfg *Config) (on listeners, err error) {
	defer func() {
		if err != nil {
			on.close()
		}
	}()
	for _, l := range []struct {
		name        string
		at          Address
		connections int
		into        *net.Listener
		pages       bool
	}{
		{"grpc", cfg.Listen.GRPC, cfg.Limits.Connections, &on.grpc, false},
		{"admin", cfg.Listen.Admin, maxPages, &on.admin, true},
		{"http", cfg.Listen.HTTP, cfg.Limits.Connections, &on.http, true},
		{"gateway", cfg.Listen.Gateway, cfg.Limits.Connections, &on.gateway, true},
	} {
		if l.at.Network() == "" {
			continue
		}
		opened, err := listen(ctx, l.at, l.connections, &s.crowded)
		if err != nil {
			return on, fmt.Errorf("listen.%s: %w", l.name, err)
		}
		switch {
		case l.pages && s.certs != nil && !l.at.Local():
			opened = tls.NewListener(opened, s.certs.config())
		case !l.pages && s.certs == nil:
			opened = greetedListener{opened, &s.strangers}
		}
		*l.into = opened
	}
	return on, nil
}

func (on listeners) close() {
	for _, l := range []net.Listener{on.grpc, on.admin, on.http, on.gateway} {
		if l != nil {
			_ = l.Close()
		}
	}
}

func (on listeners) addresses() (a Addresses) {
	for _, l := range []struct {
		from net.Listener
		into *net.Addr
	}{{on.grpc, &a.GRPC}, {on.admin, &a.Admin}, {on.http, &a.HTTP}, {on.gateway, &a.Gateway}} {
		if l.from != nil {
			*l.into = l.from.Addr()
		}
	}
	return a
}

// Relocate moves the listeners, for flags that replace what the file says; an
// empty address leaves one where it is. The listener of logins is only moved if the
// file has it: it needs more than an address. The new place is held to the same rules.
func (c *Config) Relocate(grpc, admin, http, gateway string) error {
	for _, l := range []struct {
		name, text string
		at         *Address
	}{{"--grpc", grpc, &c.Listen.GRPC}, {"--admin", admin, &c.Listen.Admin}, {"--http", http, &c.Listen.HTTP}, {"--gateway", gateway, &c.Listen.Gateway}} {
		if l.text == "" || l.at == &c.Listen.HTTP && l.at.Network() == "" {
			continue
		}
		if err := l.at.UnmarshalText([]byte(l.text)); err != nil {
			return fmt.Errorf("%s %s: %w", l.name, l.text, err)
		}
	}
	return c.guarded()
}

// guarded reports listeners that strangers reach and nothing guards.
func (c *Config) guarded() error { return strictyaml.Check("", c.checkListen) }

// equal reports whether two configurations say the same, secrets included.
func (c *Config) equal(other *Config) bool { return reflect.DeepEqual(c, other) }
