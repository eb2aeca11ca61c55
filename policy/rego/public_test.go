package rego_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// checks is how many requests each policy of TestPublicPolicies and
// TestCachedEqualsFresh is asked: go test ./policy/rego -run Cached -checks 100000
// runs for minutes.
var checks = flag.Int("checks", 400, "requests for each policy in the differential tests of the cache")

// evaluated counts what the differential tests compared.
var evaluated atomic.Int64

// CACHE-05 CACHE-06 CACHE-07 CACHE-08: policies as people write them, with their data,
// decide with the cache as they decide without. The first line of a policy is its
// entrypoint.
func TestPublicPolicies(t *testing.T) {
	files, err := filepath.Glob("testdata/public/*.rego")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d policies, %v", len(files), err)
	}
	for i, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".rego"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(strings.TrimSuffix(file, ".rego") + ".json")
			if err != nil {
				t.Fatal(err)
			}
			entry, _, _ := strings.Cut(string(text), "\n")
			c := newClock()
			s := compile(t, fstest.MapFS{"policy.rego": {Data: text}, "data.json": {Data: data}}, rego.Config{
				Entrypoint: strings.TrimPrefix(entry, "# "), Timeout: time.Minute, Cache: rego.CacheConfig{MaxTTL: time.Hour},
			}, rego.WithClock(c.Now), rego.WithAlarm(func(m rego.Mismatch) { t.Errorf("%+v", m) }))
			if s.Analysis.Whole || !s.Analysis.Cacheable() {
				t.Errorf("reads everything: %v %v", s.Analysis.Unbounded, s.Analysis.Impure)
			}
			r, allows, denies, hits := rand.New(rand.NewPCG(7, uint64(i))), 0, 0, 0
			var recent []*policy.Input
			for range *checks {
				if r.IntN(50) == 0 {
					c.advance(time.Duration(r.IntN(90)) * time.Second)
				}
				in := nearly(r, &recent)
				got, cached, err := s.Decide(t.Context(), in)
				want, wantErr := rego.Evaluate(t.Context(), s, in)
				if evaluated.Add(1); (err == nil) != (wantErr == nil) {
					t.Fatalf("%v, want %v", err, wantErr)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					key, _ := rego.KeyOf(s, in)
					t.Fatalf("cached %v, key %q: %s", cached, key, diff)
				}
				switch {
				case err != nil:
				case got.Allow:
					allows++
				default:
					denies++
				}
				if cached {
					hits++
				}
			}
			t.Logf("%d allows, %d denies, %d from the cache; reads %v", allows, denies, hits, s.Analysis.Paths)
			if allows == 0 || denies == 0 || hits < *checks/50 {
				t.Errorf("the requests say too little: %d allows, %d denies, %d from the cache", allows, denies, hits)
			}
		})
	}
	t.Cleanup(func() { t.Logf("%d requests decided twice, by the cache and without it", evaluated.Load()) })
}

// nearly is a new request, or one of before of which something else has changed.
func nearly(r *rand.Rand, recent *[]*policy.Input) *policy.Input {
	in := publicInput(r)
	if len(*recent) < 50 {
		*recent = append(*recent, in)
		return in
	}
	i := r.IntN(len(*recent))
	if r.IntN(3) == 0 {
		(*recent)[i] = in
		return in
	}
	old := *(*recent)[i]
	attributes, request, principal := *old.Attributes, *old.Request, *old.Principal
	old.Attributes, old.Request, old.Principal = &attributes, &request, &principal
	attributes.RequestID = fmt.Sprint(r.Uint32())
	switch r.IntN(14) {
	case 7:
		principal.CredentialID = fmt.Sprint(r.Uint32())
	case 0:
		attributes.Headers = in.Attributes.Headers
	case 1:
		attributes.Body, attributes.Tenant = in.Attributes.Body, in.Attributes.Tenant
	case 2:
		request.Query, request.Zones = in.Request.Query, in.Request.Zones
	case 3:
		request.Path, request.Segments = in.Request.Path, in.Request.Segments
	case 4:
		principal.Claims = in.Principal.Claims
	case 5:
		principal.Roles, principal.Scopes, principal.Actors = in.Principal.Roles, in.Principal.Scopes, in.Principal.Actors
	case 6:
		old.Peer, request.ClientIP = in.Peer, in.Request.ClientIP
	}
	return &old
}

// publicInput is a request out of the small world of testdata/public.
func publicInput(r *rand.Rand) *policy.Input {
	pick := func(options ...string) string { return options[r.IntN(len(options))] }
	some := func(options ...string) (all []string) {
		for range r.IntN(3) {
			all = append(all, pick(options...))
		}
		return all
	}
	maybe := func(m map[string]any, name string, options ...any) {
		if r.IntN(4) > 0 {
			m[name] = options[r.IntN(len(options))]
		}
	}
	path := pick("/orders/7", "/orders/8", "/orders/9", "/healthz", "/mcp", "/graphql", "/beta/7", "/")
	claims, metadata := map[string]any{}, map[string]any{}
	maybe(claims, "iss", "https://idp.test", "https://other.test")
	maybe(claims, "aud", "orders", []any{"orders", "items"}, []any{"items"})
	maybe(claims, "sub", "ann", "bob")
	maybe(claims, "realm_access", map[string]any{"roles": []any{"viewer"}}, map[string]any{"roles": []any{"admin", "editor"}}, map[string]any{})
	maybe(claims, "exp", json.Number("1767323060"), json.Number("1767323500"))
	maybe(claims, "projects", []any{"apollo"}, []any{})
	maybe(claims, "notes", "forbidden", []any{"fine", map[string]any{"a": "forbidden"}})
	maybe(metadata, "clearance", json.Number("1"), json.Number("2"), json.Number("0"), "2")
	maybe(metadata, "department", "billing", "legal")
	maybe(metadata, "regions", []any{"us"}, []any{"eu"}, []any{})
	maybe(metadata, "oncall", true, false, "true")
	maybe(metadata, "plan", "gold", "free")
	in := &policy.Input{
		Attributes: &policy.Attributes{Method: pick("GET", "POST", "DELETE"), Tenant: pick("acme", "other", "")},
		Request:    &policy.Request{Path: path, Folded: path, Query: pick("", "limit=5", "limit=50", "limit=x", "limit=5&limit=6", "id=1&id=2"), Zones: some("trusted", "untrusted")},
		Principal: &policy.Principal{
			ID: pick("ann", "bob", "cid", "eve"), Tenant: pick("acme", "other", ""), Kind: policy.Kind(pick("user", "agent", "service")),
			Roles: some("viewer", "editor", "admin"), Scopes: some("orders.write", "orders.read"), Claims: claims, Metadata: metadata,
		},
	}
	in.Request.Method = in.Attributes.Method
	in.Request.Segments = strings.Split(strings.TrimPrefix(path, "/"), "/")
	in.Attributes.Path = path + pick("", "?"+in.Request.Query)
	add := func(name string, values ...string) {
		if r.IntN(2) == 0 {
			in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: name, Value: pick(values...)})
		}
	}
	add("x-roles", "viewer", "admin", "viewer,admin", "")
	add("x-region", "eu", "us")
	add("x-beta", "1", "0")
	add("x-beta-copy", "1", "0")
	add("x-other", "1")
	if r.IntN(4) > 0 {
		in.Attributes.Body = []byte(publicBody(r))
		in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: "content-type", Value: "application/json"})
	}
	if r.IntN(2) == 0 {
		in.Peer = &policy.Peer{ID: pick("spiffe://prod/ns/edge", "spiffe://prod/ns/other", "")}
		in.Attributes.Source.Principal = pick("spiffe://prod/ns/edge", "")
	}
	if r.IntN(4) > 0 {
		in.Request.ClientIP = netip.MustParseAddr(pick("192.0.2.1", "192.0.2.200", "198.51.100.7", "2001:db8::1"))
		in.Attributes.Source.Address = netip.AddrPortFrom(netip.MustParseAddr(pick("192.0.2.1", "192.0.2.2")), 1)
	}
	for range r.IntN(4) {
		in.Principal.Actors = append(in.Principal.Actors, policy.Actor{ID: pick("eve", "cid"), Kind: policy.Kind(pick("agent", "service"))})
	}
	return in
}

func publicBody(r *rand.Rand) string {
	pick := func(options ...string) string { return options[r.IntN(len(options))] }
	switch r.IntN(4) {
	case 0:
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{"name":%q,"arguments":{"amount":%s}}}`, r.IntN(3),
			pick("tools/call", "tools/list", "tools/other"), pick("search", "refund", "delete"), pick("1", "150", "1.0", `"1"`, "5000"))
	case 1:
		return fmt.Sprintf(`{"query":%q,"variables":{"id":%q}}`, pick("{ orders { id } }", "{ status }", "{ users { id } status }", "{ me }", "{"), pick("ann", "bob"))
	case 2:
		return fmt.Sprintf(`{"request":{"object":{"metadata":{"labels":{%s}},"spec":{"containers":[{"image":%q,"securityContext":{"runAsNonRoot":%s}}]}}}}`,
			pick(`"team":"a"`, `"team":"b"`, `"team":false`, ""), pick("registry.test/a", "registry.test/b", "docker.test/b"), pick("true", "true", "false"))
	}
	return pick("{}", "[]", "null", `{"method":"ping"}`)
}
