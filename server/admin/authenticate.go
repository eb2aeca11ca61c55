package admin

import (
	"context"
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"

	transport "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

// Name is how Attributes, metrics and the decision log call this API.
const Name = "admin"

// connection is what is known of the wire under a call.
type connection struct {
	// remote is the other end; invalid for a Unix socket.
	remote netip.AddrPort
	// local says that the other end is on this machine.
	local bool
	// tls is nil without TLS.
	tls *tls.ConnectionState
}

// connectionOf reads it. What cannot be read is neither local nor TLS.
func connectionOf(ctx context.Context) (c connection) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return c
	}
	if info, ok := p.AuthInfo.(transport.TLSInfo); ok {
		c.tls = &info.State
	}
	if p.LocalAddr != nil && p.LocalAddr.Network() == "unix" {
		c.local = true
		return c
	}
	if p.Addr == nil {
		return c
	}
	if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
		c.remote = netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
		c.local = c.remote.Addr().IsLoopback()
	}
	return c
}

// private reports whether nobody on the way can read a credential, or the secret
// that an answer holds.
func (c connection) private() bool { return c.tls != nil || c.local }

// attributes are the call as the HTTP request that it is on the wire, for the same
// extraction and the same authenticators that serve the decision path.
func (c connection) attributes(ctx context.Context, method string) *policy.Attributes {
	a := &policy.Attributes{
		Door: Name, Caller: door.Caller(ctx), Method: "POST", Path: method, Protocol: "HTTP/2", Size: -1,
		Source: policy.Endpoint{Address: c.remote},
	}
	if c.tls != nil {
		a.Scheme = "https" // otherwise unknown: loopback is not TLS, and no less private
		if len(c.tls.VerifiedChains) > 0 {
			a.Connection = c.tls.VerifiedChains[0] // who shows it asks for himself
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	names := make([]string, 0, len(md))
	for name := range md {
		names = append(names, name)
	}
	slices.Sort(names) // metadata is a map, and the order must not be up to it
	for _, name := range names {
		switch {
		case name == ":authority" && len(md[name]) > 0:
			a.Host = md[name][0]
			continue
		case strings.HasPrefix(name, ":"), strings.HasSuffix(name, "-bin"):
			continue
		}
		for _, value := range md[name] {
			a.Headers = append(a.Headers, policy.Header{Name: door.Lower(name), Value: value})
		}
	}
	return a
}
