package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/postern-auth/postern/server/door/extauthz"
)

// Places that are refused are given back.
func TestAtMost(t *testing.T) {
	t.Parallel()
	var u underWay
	u.most.Store(1)
	inside := u.atMost(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("again") != "" {
			return
		}
		r.Header.Set("again", "1")
		u.atMost(http.NotFoundHandler()).ServeHTTP(w, r)
	}))
	for range 3 {
		w := httptest.NewRecorder()
		inside.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
	}
	if u.now.Load() != 0 || u.refused.Load() != 3 {
		t.Errorf("%d under way, %d refused", u.now.Load(), u.refused.Load())
	}
}

// elsewhere is an address of this machine that shares nothing with 127.0.0.1.
func elsewhere() net.IP {
	ip := netip.MustParseAddr("127.0.0.2")
	for shareOfIP(ip) == shareOfIP(netip.MustParseAddr("127.0.0.1")) {
		ip = ip.Next()
	}
	return ip.AsSlice()
}

// Who holds all the places that one address gets, with calls whose message never comes,
// leaves room for those of other addresses.
func TestOneAddressLeavesRoom(t *testing.T) {
	t.Parallel()
	s, at := run(t, func(c *Config) { c.Limits.Requests = 4 })
	policy := &held{asked: make(chan struct{}, 1), answer: make(chan struct{}, 1)}
	decidedBy(t, s, policy)
	conn := connectTo(t, at.GRPC)
	for range 3 {
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, extauthz.Method)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = stream.CloseSend() }()
	}
	waitFor(t, "three calls are under way", func() bool { return s.checks.now.Load() == 3 })
	res, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), forEnvoy)
	if err != nil || res.GetDeniedResponse().GetStatus().GetCode() != 503 {
		t.Errorf("a fourth of the same address: %v %v", res, err)
	}
	other, err := grpc.NewClient("passthrough:///"+at.GRPC.String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: elsewhere()}}).DialContext(ctx, "tcp", target)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	policy.answer <- struct{}{}
	if res, err = authv3.NewAuthorizationClient(other).Check(t.Context(), forEnvoy); err != nil || res.GetOkResponse() == nil {
		t.Errorf("the first of another: %v %v", res, err)
	}
}

// Who opens all the connections that one address gets leaves room for others, and gets
// new ones for those that it closes.
func TestOneAddressLeavesConnections(t *testing.T) {
	t.Parallel()
	open, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Uint64
	l := newBounded(open, 4, &refused)
	defer l.Close()
	dial := func(from net.IP) net.Conn {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	accept := func(want net.Conn) net.Conn {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != want.LocalAddr().String() {
			t.Errorf("%v is let in, not %v", c.RemoteAddr(), want.LocalAddr())
		}
		return c
	}
	here := net.IPv4(127, 0, 0, 1)
	first := accept(dial(here))
	accept(dial(here))
	accept(dial(here))
	shut := dial(here)
	accept(dial(elsewhere())) // after the one before it was closed on
	if n, err := shut.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("a fourth of one address is served: %d, %v", n, err)
	}
	if n := refused.Load(); n != 1 {
		t.Errorf("%d are counted", n)
	}
	_ = first.Close()
	accept(dial(here))
}

// Addresses count apart; a network of IPv6 that one machine can have counts as one.
func TestShares(t *testing.T) {
	t.Parallel()
	of := func(text string) share { return shareOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text))) }
	for _, same := range [][2]string{
		{"192.0.2.1:1", "192.0.2.1:2"},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:1"},
		{"[2001:db8::1]:1", "[2001:db8::ffff:2]:1"},
		{"[fe80::1%eth0]:1", "[fe80::1%eth1]:1"},
	} {
		if of(same[0]) != of(same[1]) {
			t.Errorf("%s and %s count apart", same[0], same[1])
		}
	}
	for name, format := range map[string]string{"IPv4": "10.0.%d.%d:1", "IPv6": "[2001:db8:%x:%x::1]:1"} {
		seen := map[share]bool{}
		for i := range 4096 {
			seen[of(fmt.Sprintf(format, i>>8, i&0xff))] = true
		}
		if len(seen) < 250 { // all but surely 256
			t.Errorf("%s: 4096 addresses have %d shares", name, len(seen))
		}
	}
	if shareOf(&net.UnixAddr{Name: "/run/postern.sock"}) != 0 || shareOfRequest(&http.Request{RemoteAddr: "@"}) != 0 {
		t.Error("a socket file has no share of its own")
	}
}
