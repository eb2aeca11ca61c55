package admin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/postern-auth/postern/server/door"
)

// A browser does what pages tell it, and a page of a stranger must not tell it to call this
// API. It has three ways:
//
//	another origin   its scripts may send requests here, but not with application/json
//	                 unless this side says so (CORS), which it never does; besides, such a
//	                 request says where it comes from, in Origin and Sec-Fetch-Site
//	another name     it has its own name resolve to this address (DNS rebinding): then Host
//	                 is that name, and not one of ours
//	a frame, a form  of the console: its headers forbid frames, and only POST does anything
//
// And no credential may come along that nobody has put into the request: cookies do not
// count here. Basic authentication and client certificates are held by the checks above.

// ConsolePath is where the console is.
const ConsolePath = "/console/"

// pages adds what browsers may ask for.
func (cfg *Config) pages(mux *http.ServeMux, gate *gate, services func(grpc.ServiceRegistrar)) {
	b := &browsers{local: cfg.Local, hosts: cfg.Hosts}
	if cfg.JSON != nil {
		calls := cfg.JSON(gate.unary, gate.stream)
		services(calls)
		handler := b.only(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.ServeHTTP(w, r.WithContext(asCall(r)))
		}))
		for _, path := range calls.Paths() {
			mux.Handle(path, handler)
		}
	}
	if cfg.Console != nil {
		mux.Handle("GET "+ConsolePath, b.only(http.StripPrefix(strings.TrimSuffix(ConsolePath, "/"), cfg.Console)))
		mux.Handle("GET /{$}", b.only(http.RedirectHandler(ConsolePath, http.StatusFound)))
	}
}

// browsers tells who is meant by a request, and where it comes from.
type browsers struct {
	local bool
	hosts []string
}

// only lets requests through that are meant for this listener and come from nobody's page
// or its own.
func (b *browsers) only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !b.answersTo(r.Host):
			refuseBrowser(w, http.StatusMisdirectedRequest, "this listener does not answer to the name in Host: see admin_api.hosts")
		case !ownOrigin(r):
			refuseBrowser(w, http.StatusForbidden, "pages of other origins may not ask this listener")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// refuseBrowser answers as Connect's protocol does.
func refuseBrowser(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"code": "permission_denied", "message": message})
}

// answersTo reports whether Host is a name of this listener. On one for this machine only,
// of all addresses only its own make sense.
func (b *browsers) answersTo(authority string) bool {
	at, own := OwnName(authority, b.hosts)
	return own && (!b.local || !at.IsValid() || at.IsLoopback())
}

// OwnName reports whether Host (RFC 9110 section 7.2) is localhost, one of some names in
// lower case, or an address, which it returns then. A name is nothing that a listener knows
// of itself, so it must be configured; an address cannot be made to mean another machine.
func OwnName(authority string, names []string) (at netip.Addr, own bool) {
	host := authority
	if name, _, err := net.SplitHostPort(authority); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || slices.Contains(names, host) {
		return at, true
	}
	at, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return at.Unmap(), err == nil && at.Zone() == ""
}

// ownOrigin reports whether no page, or one of this origin, has made the request. A browser
// says so in each request that a script makes (Fetch, Origin; Fetch Metadata); somebody who
// follows a link to a page only looks at it.
func ownOrigin(r *http.Request) bool {
	switch site := r.Header.Values("Sec-Fetch-Site"); {
	case len(site) > 1:
		return false
	case len(site) == 0, site[0] == "same-origin", site[0] == "none":
	case r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document":
	default:
		return false
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	origin := r.Header.Values("Origin")
	return len(origin) == 0 || len(origin) == 1 && strings.EqualFold(origin[0], scheme+r.Host)
}

// asCall is the context that a gRPC call of the same request would have.
func asCall(r *http.Request) context.Context {
	md := metadata.MD{":authority": {r.Host}}
	for name, values := range r.Header {
		if name != "Cookie" { // a browser adds those by itself
			md[door.Lower(name)] = values
		}
	}
	return metadata.NewIncomingContext(door.WithPeer(r), md)
}

type endlessKey struct{}

// deafFor is how long a watcher may leave what it is told unread; it hears something
// every aliveEvery.
const deafFor = 30 * time.Second

// serveEndless serves a stream of gRPC, and gives the gate a way to lift the listener's
// times, which are for requests that end, from it; not before its question has come and
// passed. A call may outlive the handler that it came through (its client is gone), and
// the writer is not to be touched then.
func serveEndless(rpc http.Handler, w http.ResponseWriter, r *http.Request) {
	var mu sync.Mutex
	over := false
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	}()
	rpc.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), endlessKey{}, func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Time{}) // every listener of ours can
		_ = control.SetWriteDeadline(time.Now().Add(deafFor))
	})))
}
