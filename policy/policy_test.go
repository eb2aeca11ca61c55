package policy_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
)

// G-09: nothing that was never filled in allows anything.
func TestZeroValuesDeny(t *testing.T) {
	t.Parallel()
	var d policy.Decision
	var v policy.Verdict
	var r policy.Reason
	if d.Allowed || v.Allow || d.Reason == policy.ReasonAllowed || r.Status() != 403 {
		t.Errorf("%+v %+v %v", d, v, r)
	}
	if (policy.PathPattern{}).Match("/") || (policy.HostPattern{}).Match("") {
		t.Error("a zero pattern matches")
	}
	if got := policy.Reason(255); got.Status() != 403 || got.String() != "unspecified" {
		t.Errorf("an unknown reason is %v with status %d", got, got.Status())
	}
}

// Every reason has its own code, and no more than a safe sentence; reasons that
// differ in which part of a guess was right look the same from outside.
func TestReasons(t *testing.T) {
	t.Parallel()
	codes := map[string]bool{}
	for _, r := range policy.Reasons() {
		if codes[r.String()] || r.String() == "" || r.Public() == "" {
			t.Errorf("%d: code %q, public %q", r, r, r.Public())
		}
		codes[r.String()] = true
		if back, ok := policy.ParseReason(r.String()); !ok || back != r {
			t.Errorf("%v does not parse", r)
		}
		if (r.Status() == 200) != (r == policy.ReasonAllowed) {
			t.Errorf("%v has status %d", r, r.Status())
		}
		if r != policy.ReasonAllowed && r.Message() == "" {
			t.Errorf("%v says nothing", r)
		}
	}
	same := []policy.Reason{policy.ReasonCredentialMalformed, policy.ReasonCredentialUnknown, policy.ReasonSignatureInvalid, policy.ReasonIssuerUntrusted}
	for _, r := range same {
		if r.Public() != same[0].Public() || r.Message() != same[0].Message() || r.OAuth() != same[0].OAuth() || r.Status() != 401 {
			t.Errorf("%v can be told from %v", r, same[0])
		}
	}
}

// A secret cannot be printed, however deep it lies.
func TestSecretIsUnprintable(t *testing.T) {
	t.Parallel()
	const text = "s3cr3t-value"
	type nested struct {
		S policy.Secret
		P *policy.Secret
		M map[string]policy.Secret
		u policy.Secret // fmt calls no method of what it may not export
		l []policy.Secret
	}
	s := policy.NewSecret(text)
	deep := nested{s, &s, map[string]policy.Secret{"k": s}, s, []policy.Secret{s}}
	values := []any{s, &s, deep, &deep, []policy.Secret{s}, policy.Presented{Secret: s}}
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p"} {
			if out := fmt.Sprintf(verb, v); strings.Contains(out, text) || strings.Contains(out, fmt.Sprintf("%x", text)) {
				t.Errorf("%s shows it: %s", verb, out)
			}
		}
		out, err := json.Marshal(v)
		if err != nil || strings.Contains(string(out), text) {
			t.Errorf("JSON shows it: %s %v", out, err)
		}
		var b strings.Builder
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		if strings.Contains(b.String(), text) {
			t.Errorf("slog shows it: %s", b.String())
		}
	}
	if s.Reveal() != text || s.IsZero() || !(policy.Secret{}).IsZero() {
		t.Error("Reveal or IsZero")
	}
}

func TestPathPattern(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern     string
		match, miss []string
	}{
		{"/", []string{"/"}, []string{"", "/a", "//"}},
		{"/a", []string{"/a"}, []string{"/a/", "/A", "/ab", "/a/b", "a"}},
		{"/a/", []string{"/a/"}, []string{"/a", "/a/b"}},
		{"/a/*", []string{"/a/b"}, []string{"/a", "/a/", "/a/b/c", "/b/b"}},
		{"/*/b", []string{"/a/b"}, []string{"//b", "/b", "/a/c"}},
		{"/a/**", []string{"/a", "/a/", "/a/b", "/a/b/c/"}, []string{"/ab", "/", "/A/b"}},
		{"/**", []string{"/", "/a", "/a/b"}, []string{"", "a"}},
	}
	for _, tt := range tests {
		p, err := policy.ParsePathPattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range tt.match {
			if !p.Match(s) {
				t.Errorf("%s does not match %q", tt.pattern, s)
			}
		}
		for _, s := range tt.miss {
			if p.Match(s) {
				t.Errorf("%s matches %q", tt.pattern, s)
			}
		}
	}
	for _, bad := range []string{"", "a", "/a//b", "/a/../b", "/./a", "/a*", "/**/a", "/a?b", "/%61", "/a;b", "/a#b", `/a\b`} {
		if _, err := policy.ParsePathPattern(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// "/x/**" matches exactly the paths that are "/x" or start with "/x/".
func TestSubtreeIsAPrefixOfSegments(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		prefix := "/" + rapid.StringMatching(`[a-z]{1,3}(/[a-z]{1,3}){0,2}`).Draw(t, "prefix")
		path := "/" + rapid.StringMatching(`[a-z/]{0,12}`).Draw(t, "path")
		p, err := policy.ParsePathPattern(prefix + "/**")
		if err != nil {
			t.Fatal(err)
		}
		if want := path == prefix || strings.HasPrefix(path, prefix+"/"); p.Match(path) != want {
			t.Fatalf("%s/** on %q: %v", prefix, path, !want)
		}
	})
}

func TestHostPattern(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, host string
		want          bool
	}{
		{"api.test", "api.test", true}, {"API.test", "api.test", true}, {"api.test", "xapi.test", false},
		{"*.test", "api.test", true}, {"*.test", "a.b.test", true}, {"*.test", "test", false}, {"*.test", ".test", false}, {"*.test", "eviltest", false},
	} {
		p, err := policy.ParseHostPattern(tt.pattern)
		if err != nil || p.Match(tt.host) != tt.want {
			t.Errorf("%s on %s: %v %v", tt.pattern, tt.host, !tt.want, err)
		}
	}
	for _, bad := range []string{"", "*", "*.", "a b", "a/b", "a:80", "a@b", "a.*.b"} {
		if _, err := policy.ParseHostPattern(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// G-16: each constraint has a case that it permits and one that it refuses.
func TestConstraints(t *testing.T) {
	t.Parallel()
	path := func(s string) policy.PathPattern { p, _ := policy.ParsePathPattern(s); return p }
	host := func(s string) policy.HostPattern { p, _ := policy.ParseHostPattern(s); return p }
	saturday := time.Date(2026, 11, 21, 10, 30, 0, 0, time.UTC)
	request := policy.Request{Method: "GET", Scheme: "https", Host: "api.test", Path: "/orders/7", ClientIP: netip.MustParseAddr("10.1.2.3")}
	tests := []struct {
		name         string
		permits, not policy.Constraints
		want         policy.Reason
	}{
		{"networks", policy.Constraints{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}},
			policy.Constraints{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("::/0")}}, policy.ReasonNetwork},
		{"methods", policy.Constraints{Methods: []string{"GET"}}, policy.Constraints{Methods: []string{"get", "POST"}}, policy.ReasonRequestMethod},
		{"hosts", policy.Constraints{Hosts: []policy.HostPattern{host("*.test")}}, policy.Constraints{Hosts: []policy.HostPattern{host("other.test")}}, policy.ReasonHost},
		{"paths", policy.Constraints{Paths: []policy.PathPattern{path("/orders/*")}}, policy.Constraints{Paths: []policy.PathPattern{path("/admin/**")}}, policy.ReasonPath},
		{"days", policy.Constraints{Windows: []policy.TimeWindow{{Days: []string{"sat"}, From: "00:00", To: "24:00"}}},
			policy.Constraints{Windows: []policy.TimeWindow{{Days: []string{"mon", "sun"}, From: "00:00", To: "24:00"}}}, policy.ReasonTimeWindow},
		{"hours", policy.Constraints{Windows: []policy.TimeWindow{{From: "10:30", To: "10:31"}}},
			policy.Constraints{Windows: []policy.TimeWindow{{From: "10:00", To: "10:30"}}}, policy.ReasonTimeWindow},
		{"audiences", policy.Constraints{Audiences: []string{"users", "orders"}}, policy.Constraints{Audiences: []string{"users"}}, policy.ReasonInvalidAudience},
		{"resources on a request", policy.Constraints{}, policy.Constraints{Resources: []string{"order:*"}}, policy.ReasonResource},
	}
	for _, tt := range tests {
		if got := tt.permits.Check(policy.Use{Request: &request, Audience: "orders", Now: saturday}); got != policy.ReasonAllowed {
			t.Errorf("%s: %v", tt.name, got)
		}
		if got := tt.not.Check(policy.Use{Request: &request, Audience: "orders", Now: saturday}); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}

	tls := policy.Constraints{RequireTLS: true}
	for _, q := range []policy.Request{{Scheme: "http"}, {Scheme: ""}, {Scheme: "https", Plaintext: true}} {
		if got := tls.Check(policy.Use{Request: &q, Now: saturday}); got != policy.ReasonPlaintext {
			t.Errorf("require_tls on %+v: %v", q, got)
		}
	}
	if got := tls.Check(policy.Use{Request: &request, Now: saturday}); got != policy.ReasonAllowed {
		t.Errorf("require_tls: %v", got)
	}

	order := &policy.Action{ResourceType: "order", ResourceID: "7"}
	for resource, want := range map[string]policy.Reason{"order:*": 1, "order:7": 1, "order:8": policy.ReasonResource, "orde:r7": policy.ReasonResource, "order": policy.ReasonResource, "invoice:*": policy.ReasonResource} {
		c := policy.Constraints{Resources: []string{resource}}
		if got := c.Check(policy.Use{Request: &policy.Request{}, Action: order, Now: saturday}); got != want {
			t.Errorf("%s: %v, want %v", resource, got, want)
		}
	}
	c := policy.Constraints{Paths: []policy.PathPattern{path("/**")}}
	if got := c.Check(policy.Use{Request: &policy.Request{}, Action: order, Now: saturday}); got != policy.ReasonPath {
		t.Errorf("a limit on paths lets an action through: %v", got)
	}
	unknown := policy.Constraints{Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	if got := unknown.Check(policy.Use{Request: &policy.Request{}, Action: nil, Now: saturday}); got != policy.ReasonNetwork {
		t.Errorf("an unknown client address fits a network: %v", got)
	}
}

// The more state wins on either side; a word that is no state counts as none.
func TestStateMax(t *testing.T) {
	t.Parallel()
	states := []policy.State{"", policy.StateNone, policy.StateMirror, policy.StateStore}
	for i, a := range states {
		for j, b := range states {
			want := states[max(i, j)]
			if i+j <= 1 {
				want = a // neither counts
			}
			if got := a.Max(b); got != want {
				t.Errorf("%q and %q: %q, want %q", a, b, got, want)
			}
		}
	}
}

func TestHeadersGet(t *testing.T) {
	t.Parallel()
	h := policy.Headers{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}, {Name: "a", Value: "3"}}
	if v, n := h.Get("a"); v != "1" || n != 2 {
		t.Errorf("%q %d", v, n)
	}
	if v, n := h.Get("c"); v != "" || n != 0 {
		t.Errorf("%q %d", v, n)
	}
}
