package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/trace"
)

// callers decides who may ask. The list is replaced whole on a reload, so a
// caller that was taken out of it is refused at its next request, also on a
// connection that is open.
type callers struct {
	current atomic.Pointer[[]caller]
	refused atomic.Uint64
}

// caller is an entry of the list with its token as a digest: comparing digests
// takes the same time whatever the length of what was sent.
type caller struct {
	Caller
	token    [32]byte
	hasToken bool
}

func (c *callers) set(list []Caller) {
	next := make([]caller, len(list))
	for i, e := range list {
		next[i] = caller{Caller: e, hasToken: !e.Token.IsZero()}
		if next[i].hasToken {
			next[i].token = sha256.Sum256([]byte(e.Token.Reveal()))
		}
	}
	c.current.Store(&next)
}

// find returns the first caller whose every condition the connection meets. No
// list means that whoever could connect may ask.
func (c *callers) find(ctx context.Context) (who *caller, ok bool) {
	list := *c.current.Load()
	if len(list) == 0 {
		return nil, true
	}
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return nil, false
	}
	token, hasToken := bearer(ctx)
	for i := range list {
		e := &list[i]
		switch {
		case len(e.CIDRs) > 0 && !within(e.CIDRs, p.Addr):
		case (e.SPIFFE != "" || e.DNS != "") && !named(e, p.AuthInfo):
		case e.hasToken && (!hasToken || subtle.ConstantTimeCompare(token[:], e.token[:]) != 1):
		case len(e.CIDRs) == 0 && e.SPIFFE == "" && e.DNS == "" && !e.hasToken: // an entry that asks for nothing lets nobody in
		default:
			return e, true
		}
	}
	return nil, false
}

func within(prefixes []netip.Prefix, addr net.Addr) bool {
	if at, ok := addr.(callerAddr); ok {
		addr = at.Addr
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// named looks at the leaf of a chain that the handshake has verified. A SPIFFE
// identity is exactly one URI (X509-SVID section 2).
func named(e *caller, info credentials.AuthInfo) bool {
	t, ok := info.(credentials.TLSInfo)
	if !ok || len(t.State.VerifiedChains) == 0 {
		return false
	}
	leaf := t.State.VerifiedChains[0][0]
	if time.Now().After(leaf.NotAfter) { // it was good when the connection was made
		return false
	}
	if e.SPIFFE != "" && (len(leaf.URIs) != 1 || leaf.URIs[0].String() != e.SPIFFE) {
		return false
	}
	return e.DNS == "" || slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, e.DNS) })
}

func bearer(ctx context.Context) (digest [32]byte, ok bool) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return digest, false
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "bearer") || token == "" {
		return digest, false
	}
	return sha256.Sum256([]byte(token)), true
}

// http refuses who may not look at the admin listener. Health is open, as above, but
// what is wrong can name files, hosts and database users, and strangers are not told.
func (c *callers) http(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, listed := c.find(asRPC(r))
		switch {
		case listed:
		case r.URL.Path == "/healthz", r.URL.Path == "/readyz":
			r = r.WithContext(admin.WithoutDetail(r.Context()))
		default:
			http.Error(w, errNotCaller.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// thisMachineOnly refuses requests under another name than this machine's, or those that it
// is given: a page in somebody's browser can have its own name resolve to 127.0.0.1. No
// browser leaves the name out, and probes may.
func thisMachineOnly(next http.Handler, names []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, own := admin.OwnName(r.Host, names)
		if nameless := r.Host == "" || r.Host[0] == ':'; !own && !nameless {
			http.Error(w, "this listener answers under its address only", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// asRPC is the context that a gRPC call over the same connection would have.
func asRPC(r *http.Request) context.Context {
	md := metadata.MD{"authorization": r.Header.Values("Authorization")}
	for _, name := range trace.Fields() {
		if values := r.Header.Values(name); len(values) > 0 {
			md[name] = values
		}
	}
	return metadata.NewIncomingContext(door.WithPeer(r), md)
}

var errNotCaller = status.Error(codes.PermissionDenied, "this caller is not in the configuration's list of callers")
