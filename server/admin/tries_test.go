package admin

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
)

// ADMIN-08: who shows too many wrong credentials waits, others
// are, and so is who was good there before.
func TestTries(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	now := time.Unix(1_800_000_000, 0)
	s := newTries(slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now })
	here, there := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:0:1::1")
	good := s.shown(here, showing("Bearer good"), nil)
	s.passed(good)
	for range tryBurst {
		if !s.admits(here, s.shown(here, showing("Bearer bad"), nil)) {
			t.Fatal("too early")
		}
		s.failed(here)
	}
	neighbour := netip.MustParseAddr("2001:db8::2") // has the same /64, and so the same client
	for what, c := range map[string]struct {
		from  netip.Addr
		value string
		want  bool
	}{
		"a wrong one":                     {here, "Bearer bad", false},
		"another wrong one":               {here, "Bearer worse", false},
		"what was good":                   {here, "Bearer good", true},
		"what was good, with more behind": {here, "Bearer good2", false},
		"another address of the client's": {neighbour, "Bearer bad", false},
		"another client":                  {there, "Bearer bad", true},
		"an IPv4 client":                  {netip.MustParseAddr("192.0.2.1"), "Bearer bad", true},
		"nobody knows who":                {netip.Addr{}, "Bearer bad", true},
	} {
		if got := s.admits(c.from, s.shown(c.from, showing(c.value), nil)); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	if n := strings.Count(log.String(), "admin_tries"); n != 1 || strings.Contains(log.String(), "bad") {
		t.Errorf("%d lines: %s", n, &log)
	}
	now = now.Add(tryPace)
	if !s.admits(here, s.shown(here, showing("Bearer bad"), nil)) {
		t.Error("it does not end")
	}
	s.failed(here)
	if s.admits(here, s.shown(here, showing("Bearer bad"), nil)) {
		t.Error("it begins anew")
	}
	now = now.Add(goodFor)
	for range tryBurst {
		s.failed(here)
	}
	if s.admits(here, good) {
		t.Error("what was good an hour ago is believed to be yet")
	}
}

// What may hold a credential counts, and nothing that differs from call to call.
func TestShown(t *testing.T) {
	t.Parallel()
	s := newTries(slog.New(slog.DiscardHandler), time.Now)
	from := netip.MustParseAddr("192.0.2.1")
	one := s.shown(from, showing("Bearer x"), []string{"x-api-key"})
	other := showing("Bearer x")
	other.Headers = append(other.Headers, policy.Header{Name: "grpc-timeout", Value: "1S"})
	if s.shown(from, other, []string{"x-api-key"}) != one {
		t.Error("a field that is none counts")
	}
	other.Headers = append(other.Headers, policy.Header{Name: "x-api-key", Value: "k"})
	if s.shown(from, other, []string{"x-api-key"}) == one {
		t.Error("a field that is one does not count")
	}
	if s.shown(netip.MustParseAddr("192.0.2.2"), showing("Bearer x"), nil) == s.shown(from, showing("Bearer x"), nil) {
		t.Error("the address does not count")
	}
}

func showing(authorization string) *policy.Attributes {
	return &policy.Attributes{Headers: policy.Headers{{Name: "authorization", Value: authorization}}}
}
