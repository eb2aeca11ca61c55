package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/vectortest"
)

// The two policies of http/paths.jsonl, as somebody writes them who writes no
// Rego: what is listed is public, or all is public but what is denied. The second
// one can also be written as a demand that nobody here meets.
const (
	onlyPublic  = "routes: [{path: /public/**, public: true}]\n"
	allButAdmin = "routes: [{path: /**, public: true}]\ndeny: [{path: /admin/**}]\n"
	adminScope  = "routes: [{path: /admin/**, scopes: [admin]}, {path: /**, public: true}]\n"
)

// G-09 G-16: every vector of http/paths.jsonl, under both policies.
func TestVectorsPaths(t *testing.T) {
	t.Parallel()
	serve := func(policy string) *box {
		w := prepare(t, "paths")
		w.write(t, "policy/tables.yaml", policy)
		return start(t, w)
	}
	p1, p2, demanded, routed := serve(onlyPublic), serve(allButAdmin), serve(adminScope), start(t, prepare(t, "demands"))
	results := tally{}
	vectors := vectortest.Lines[struct{ ID, Path, Category, P1, P2 string }](t, "http/paths.jsonl")
	for _, v := range vectors {
		for name, c := range map[string]struct {
			box  *box
			want string
		}{"P1": {p1, v.P1}, "P2": {p2, v.P2}, "P2 by scope": {demanded, v.P2}, "P2 by route": {routed, v.P2}} {
			a := c.box.ask(t, get(v.Path))
			ok := c.want == "either" || a.allowed() == (c.want == "allow")
			if results.count(name+" "+v.Category, ok); !ok {
				t.Errorf("%s under %s: %q: %v, want %s", v.ID, name, v.Path, a, c.want)
			}
			if a.status != 200 && a.status != 400 && a.status != 401 && a.status != 403 {
				t.Errorf("%s under %s: %q: status %d", v.ID, name, v.Path, a.status)
			}
		}
	}
	results.print(t)
	if len(vectors) != 559 {
		t.Errorf("%d vectors, not 559", len(vectors))
	}
}

// places runs a server with the client configuration and the policy that tells
// what it saw.
func places(t *testing.T, useRemote bool, hops int) *box {
	return start(t, prepare(t, "places", "@USE_REMOTE@", fmt.Sprint(useRemote), "@HOPS@", fmt.Sprint(hops)))
}

// Every vector of http/hosts.jsonl: the host picks the route, whatever its
// spelling, and a host with two readings picks none.
func TestVectorsHosts(t *testing.T) {
	t.Parallel()
	b := places(t, true, 0)
	results := tally{}
	vectors := vectortest.Lines[struct{ ID, Host, Expect, Why string }](t, "http/hosts.jsonl")
	for _, v := range vectors {
		q := get("/")
		q.host = v.Host
		answers := map[string]answer{"extauthz": b.askEnvoy(t, q), "grpc": b.askPostern(t, q)}
		if v.Host == "" {
			delete(answers, "grpc") // there, it means that the caller does not know the host
		}
		for name, a := range answers {
			route := a.upstream("x-route")
			ok := map[string]bool{
				"match":         a.allowed() && route == "api",
				"match-or-deny": !a.allowed() || route == "api",
				"other":         !a.allowed() || route == "other",
				"deny":          !a.allowed(),
			}[v.Expect]
			if results.count(v.Expect, ok); !ok {
				t.Errorf("%s over %s: %q (%s): %v by route %q, want %s", v.ID, name, v.Host, v.Why, a, route, v.Expect)
			}
		}
	}
	results.print(t)
	if len(vectors) != 24 {
		t.Errorf("%d vectors, not 24", len(vectors))
	}
}

// Every vector of http/client_ip.jsonl: the address that policies and networks of
// keys see, as Envoy documents it. What a client claims of itself counts nothing.
func TestVectorsClientIP(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, Remote, Client, Why, Header string
		XFF                             *string `json:"x_forwarded_for"`
		Hops                            int     `json:"trusted_hops"`
		UseRemote                       *bool   `json:"use_remote_address"`
	}
	type setting struct {
		useRemote bool
		hops      int
	}
	boxes := map[setting]*box{}
	results := tally{}
	vectors := vectortest.Lines[vector](t, "http/client_ip.jsonl")
	for _, v := range vectors {
		s := setting{v.UseRemote == nil || *v.UseRemote, v.Hops}
		if boxes[s] == nil {
			boxes[s] = places(t, s.useRemote, s.hops)
		}
		q := get("/")
		q.source = v.Remote
		if v.XFF != nil {
			q.headers = append(q.headers, policy.Header{Name: "x-forwarded-for", Value: *v.XFF})
		}
		if name, value, ok := strings.Cut(v.Header, ": "); ok {
			q.headers = append(q.headers, policy.Header{Name: strings.ToLower(name), Value: value})
		}
		a := boxes[s].ask(t, q)
		got := a.upstream("x-client")
		if results.count(fmt.Sprintf("remote %v, hops %d", s.useRemote, s.hops), got == v.Client); got != v.Client {
			t.Errorf("%s (%s): %v, client %q, want %s", v.ID, v.Why, a, got, v.Client)
		}
	}
	results.print(t)
	if len(vectors) != 25 {
		t.Errorf("%d vectors, not 25", len(vectors))
	}
}

// G-16 and every vector of http/cidr.jsonl: keys that are bound to a network. What
// is no network is refused where the key is minted and where it is loaded.
func TestVectorsCIDR(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, CIDR, IP, Why string
		Member            *bool
	}
	vectors := vectortest.Lines[vector](t, "http/cidr.jsonl")
	w, keys := prepare(t, "cidr"), map[string]string{}
	for _, v := range vectors {
		if v.Member != nil && keys[v.CIDR] == "" {
			keys[v.CIDR] = w.mint(t, order{id: "alice", networks: []string{v.CIDR}})
		}
	}
	b := start(t, w)
	results := tally{}
	for _, v := range vectors {
		problem, class := "", "refused"
		if v.Member == nil {
			problem = refuseNetwork(t, v.CIDR, v.IP)
		} else {
			class = fmt.Sprint("member ", *v.Member)
			b.hide(keys[v.CIDR])
			q := get("/", "x-api-key", keys[v.CIDR])
			q.source = v.IP
			a := b.ask(t, q)
			if a.allowed() != *v.Member || !a.allowed() && a.reason != "network_not_allowed" {
				problem = a.String()
			}
		}
		if results.count(class, problem == ""); problem != "" {
			t.Errorf("%s: %s in %q (%s): %s", v.ID, v.IP, v.CIDR, v.Why, problem)
		}
	}
	results.print(t)
	if len(vectors) != 111 {
		t.Errorf("%d vectors, not 111", len(vectors))
	}
	q := get("/", "x-api-key", keys["0.0.0.0/0"])
	q.source = "" // an unknown address is in no network
	if a := b.askPostern(t, q); a.reason != "network_not_allowed" {
		t.Errorf("a client of unknown address: %v", a)
	}
}

// refuseNetwork loads a key whose network is odd. Either its keys file is refused
// as a whole, or the network is one address that can be meant in one way only.
func refuseNetwork(t *testing.T, cidr, ip string) string {
	t.Helper()
	w := prepare(t, "cidr")
	if cidr == "fe80::/10" { // the address is the odd one: its zone does not count
		key := w.mint(t, order{id: "alice", networks: []string{cidr}})
		q := get("/", "x-api-key", key)
		q.source = ip
		start(t, w).ask(t, q)
		return ""
	}
	if _, _, err := (&order{id: "alice", kind: "key", principalKind: "user", expiresIn: time.Hour, pepperFile: w.path("pepper"), networks: []string{cidr}}).mint(time.Now()); err == nil && strings.Contains(cidr, "/") {
		return "`key mint` takes it"
	}
	key := w.mint(t, order{id: "alice"}, func(k *apikey.Key) {
		k.Constraints = &policy.Constraints{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/32")}}
	})
	w.write(t, "keys.yaml", strings.ReplaceAll(w.read(t, "keys.yaml"), "192.0.2.0/32", cidr))
	if err := loads(w); err != nil {
		if !strings.Contains(err.Error(), "networks") {
			return "refused without saying why: " + err.Error()
		}
		return ""
	}
	if strings.Contains(cidr, "/") || cidr == "" {
		return "the keys file is taken"
	}
	q := get("/", "x-api-key", key)
	q.source = ip
	b := start(t, w)
	b.expect(t, q, 200, "allowed")
	q.source = netip.MustParseAddr(ip).Next().String()
	b.expect(t, q, 403, "network_not_allowed")
	return ""
}
