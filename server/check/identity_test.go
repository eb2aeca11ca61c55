package check_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/check"
)

// mint counts the identity tokens that it makes, each of which lives as long as it may.
type mint struct{ made int }

func (m *mint) Identity(p *policy.Principal, audience string, now, notAfter time.Time) (string, time.Time, error) {
	m.made++
	expires := now.Add(5 * time.Minute)
	if !notAfter.IsZero() && notAfter.Before(expires) {
		expires = notAfter
	}
	return fmt.Sprintf("%s@%s until %s", p.ID, audience, expires.Format("15:04:05")), expires, nil
}

// G-02: a token that is kept for a principal is not used where another of the request's
// credentials ends before it.
func TestIdentityTokenEndsWithTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := &mint{}
	w.cfg.IdentityToken = &check.IdentityToken{Minter: m, Header: "x-caller-token"}
	w.cfg.Routes = route(func(r *policy.Route) { r.AllOf = []policy.Method{"jwt", "api_key"} })
	w.proofs["short"] = proof("alice", "api_key")
	w.proofs["short"].NotAfter = noon.Add(20 * time.Second)
	c := check.New(w.cfg)
	for i, tt := range []struct {
		key, until string
		made       int
	}{{"key", "12:05:00", 1}, {"key", "12:05:00", 1}, {"short", "12:00:20", 2}, {"short", "12:00:20", 2}} {
		d := c.Check(t.Context(), request("authorization", "Bearer jwt", "x-api-key", tt.key))
		got, _ := policy.Headers(d.Upstream).Get("x-caller-token")
		if want := "alice@api.test until " + tt.until; got != want || m.made != tt.made {
			t.Errorf("%d: %q after %d, want %q after %d", i, got, m.made, want, tt.made)
		}
	}
}

// Who has no credential gets no token, and can send none.
func TestIdentityTokenOfNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := &mint{}
	w.cfg.IdentityToken = &check.IdentityToken{Minter: m, Header: "x-caller-token"}
	w.cfg.KeepCredential = true
	w.cfg.Routes = route(func(r *policy.Route) { r.Anonymous = true })
	d := w.check(t, request("x-caller-token", "somebody else's"))
	if !d.Allowed || m.made != 0 || !slices.Contains(d.Remove, "x-caller-token") {
		t.Errorf("%v, made %d, removed %v", d.Reason, m.made, d.Remove)
	}
	d = w.check(t, request("x-caller-token", "somebody else's", "x-api-key", "key"))
	if _, n := policy.Headers(d.Upstream).Get("x-caller-token"); !d.Allowed || n != 1 || slices.Contains(d.Remove, "x-caller-token") {
		t.Errorf("%v, set %v, removed %v", d.Reason, d.Upstream, d.Remove)
	}
}
