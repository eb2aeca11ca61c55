package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"

	"golang.org/x/net/netutil"
)

// listen opens a listener. A socket file that nobody listens on any more is left
// over from a kill and removed.
func listen(ctx context.Context, at Address, connections int) (net.Listener, error) {
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
	return netutil.LimitListener(l, connections), nil
}

// Relocate moves the listeners, for flags that replace what the file says; an
// empty address leaves one where it is. The new place is held to the same rules.
func (c *Config) Relocate(grpc, admin string) error {
	for _, l := range []struct {
		name, text string
		at         *Address
	}{{"--grpc", grpc, &c.Listen.GRPC}, {"--admin", admin, &c.Listen.Admin}} {
		if l.text == "" {
			continue
		}
		if err := l.at.UnmarshalText([]byte(l.text)); err != nil {
			return fmt.Errorf("%s %s: %w", l.name, l.text, err)
		}
	}
	return c.guarded()
}

// guarded reports listeners that strangers reach and nothing guards.
func (c *Config) guarded() error {
	var errs []error
	c.checkListen(func(path, message, suggestion string) {
		errs = append(errs, fmt.Errorf("%s: %s; %s", path, message, suggestion))
	})
	return errors.Join(errs...)
}

// equal reports whether two configurations say the same, secrets included.
func (c *Config) equal(other *Config) bool { return reflect.DeepEqual(c, other) }
