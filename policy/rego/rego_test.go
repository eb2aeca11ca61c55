package rego_test

import (
	"cmp"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// input returns an ordinary request, changed as the test wants it.
func input(changes ...func(*policy.Input)) *policy.Input {
	in := &policy.Input{
		Attributes: &policy.Attributes{
			Door: "extauthz", RequestID: "r1", Method: "GET", Scheme: "https", Host: "api.example.com:443",
			Path: "/orders/7?lang=en&id=1&id=2", Protocol: "HTTP/2", Size: -1,
			Headers: policy.Headers{
				{Name: "authorization", Value: "Bearer secret-token"},
				{Name: "x-region", Value: "eu"},
				{Name: "accept", Value: "a"}, {Name: "accept", Value: "b"},
			},
			Source: policy.Endpoint{Address: netip.MustParseAddrPort("192.0.2.7:4711"), Principal: "spiffe://prod/ns/edge"},
		},
		Request: &policy.Request{
			Method: "GET", Scheme: "https", Host: "api.example.com", Port: 443,
			Path: "/orders/7", Folded: "/orders/7", Segments: []string{"orders", "7"}, Query: "lang=en&id=1&id=2",
			ClientIP: netip.MustParseAddr("198.51.100.1"),
		},
		Principal: &policy.Principal{
			ID: "ann", Kind: policy.KindUser, Tenant: "acme", Method: policy.MethodJWT, Assurance: 3,
			Roles: []string{"viewer"}, Scopes: []string{"read"},
			Claims: map[string]any{"team": "billing"},
		},
		Route: &policy.Route{Name: "orders", Labels: map[string]string{"tier": "gold"}},
	}
	for _, change := range changes {
		change(in)
	}
	if in.Request.Path != "/orders/7" && in.Request.Folded == "/orders/7" {
		in.Request.Folded = strings.ToLower(in.Request.Path)
	}
	return in
}

// module is a policy directory of one file.
func module(text string) fstest.MapFS {
	return fstest.MapFS{"authz.rego": {Data: []byte("package postern.authz\n" + text)}}
}

// Where the config does not say how long an answer may take, a busy machine has plenty.
func compile(tb testing.TB, fsys fstest.MapFS, config rego.Config, options ...rego.Option) *rego.Snapshot {
	tb.Helper()
	config.Timeout = cmp.Or(config.Timeout, 10*time.Second)
	b, err := rego.LoadFS(fsys, config)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := rego.Compile(tb.Context(), b, config, options...)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// decide fails the test if the policy could not be asked.
func decide(tb testing.TB, s *rego.Snapshot, in *policy.Input) *policy.Verdict {
	tb.Helper()
	v, _, err := s.Decide(tb.Context(), in)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// clock is a time that only the test moves.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time { return c.now }

func (c *clock) advance(d time.Duration) { c.now = c.now.Add(d) }
