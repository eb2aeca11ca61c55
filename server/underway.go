package server

import (
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
)

// underWay counts the questions that are being answered, whichever connection they came
// over, and takes no more than a bound. It is what keeps a flood, or one slow dependency
// that everybody waits for, from taking the memory and the time of all. Nor does one
// address get more than three quarters of the places: others are answered beside it, also
// if it holds all that it can and sends nothing.
//
// It is no queue: who is one too many is told so at once. Those that are let in may still
// wait for a place to evaluate a policy or to hash a password, and the places for that say
// themselves whom they refuse.
type underWay struct {
	most    atomic.Int64
	now     atomic.Int64
	refused atomic.Uint64
	held    shares
}

// enter reports whether one more may be answered. Each one that may leaves once.
func (u *underWay) enter(from share) bool {
	most := u.most.Load()
	if u.held.enter(from, most) {
		if u.now.Add(1) <= most {
			return true
		}
		u.leave(from)
	}
	u.refused.Add(1)
	return false
}

func (u *underWay) leave(from share) {
	u.now.Add(-1)
	u.held.leave(from)
}

// atMost refuses requests when too many are under way.
func (u *underWay) atMost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := shareOfRequest(r)
		if !u.enter(from) {
			busy(w)
			return
		}
		defer u.leave(from)
		next.ServeHTTP(w, r)
	})
}

func busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, policy.ReasonOverloaded.Message(), http.StatusServiceUnavailable)
}

// shares counts the places that each address holds.
type shares [1 << 8]atomic.Int64

// enter reports whether an address may have one more of so many places.
func (s *shares) enter(from share, places int64) bool {
	if s[from].Add(1) <= places-places/4 {
		return true
	}
	s.leave(from)
	return false
}

func (s *shares) leave(from share) { s[from].Add(-1) }

// share is what an address counts for. Addresses that have the same share one: which do,
// nobody outside can foresee, and they are only the worse for it if one of them floods.
type share uint8

var shareSeed = maphash.MakeSeed()

// shareOf is the share of who is connected from addr. Of IPv6 it is a whole /64, which one
// machine can have; all that come over a socket file have one.
func shareOf(addr net.Addr) share {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return shareOfIP(tcp.AddrPort().Addr())
	}
	return 0
}

func shareOfRequest(r *http.Request) share {
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return shareOfIP(at.Addr())
	}
	return 0
}

func shareOfIP(ip netip.Addr) share {
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		network, _ := ip.Prefix(64) // an address of IPv6 has one
		ip = network.Addr()
	}
	return share(maphash.Comparable(shareSeed, ip))
}
