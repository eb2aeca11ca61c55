package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// Pages hold everything once and in order, whatever is filtered; tokens only fit
// their query.
func TestPages(t *testing.T) {
	w := newWorld(t)
	want := map[string]bool{}
	for i := range 25 {
		c := w.key(func(s *spec) { s.TTL = time.Duration(1+i%2) * day })
		want[c.ID] = i%2 == 0
	}
	w.key(func(s *spec) { s.Tenant = "umbrella" })
	q := registry.CredentialQuery{Page: registry.Page{Size: 4}, Tenant: "acme", ExpiresBefore: w.now.Add(day + 1)}
	seen, last, pages := 0, "", 0
	for {
		some, next, err := w.ListCredentials(ctx, root().Actor, q)
		w.ok(err)
		for _, c := range some {
			if !want[c.ID] || c.ID <= last {
				t.Errorf("%s after %s", c.ID, last)
			}
			last = c.ID
			seen++
		}
		if pages++; next == "" {
			break
		}
		q.Token = next
	}
	if seen != 13 || pages != 4 {
		t.Errorf("%d on %d pages", seen, pages)
	}
	q.Tenant = "umbrella"
	for _, token := range []string{q.Token, "x", "!!", q.Token + "AAAA", strings.Repeat("A", 5000)} {
		q.Token = token
		_, _, err := w.ListCredentials(ctx, root().Actor, q)
		w.refused(err, registry.InvalidField, "page_token")
	}
	q = registry.CredentialQuery{Page: registry.Page{Size: -1}}
	_, _, err := w.ListCredentials(ctx, root().Actor, q)
	w.refused(err, registry.InvalidField, "page_size")
	for _, bad := range []registry.CredentialQuery{{States: []registry.State{"X"}}, {Types: []store.CredentialType{"x"}}, {UnusedFor: -1}, {Principal: "a/b"}} {
		_, _, err := w.ListCredentials(ctx, root().Actor, bad)
		if registry.ReasonOf(err) != registry.InvalidField {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	// The audit log is read newest first.
	var sequence []int64
	a := registry.AuditQuery{Page: registry.Page{Size: 10}, Action: "credential.issue"}
	for {
		some, next, err := w.ListAudit(ctx, root().Actor, a)
		w.ok(err)
		for _, e := range some {
			sequence = append(sequence, e.Seq)
		}
		if a.Token = next; next == "" {
			break
		}
	}
	for i := range sequence[1:] {
		if sequence[i] <= sequence[i+1] {
			t.Errorf("%v", sequence)
		}
	}
	if len(sequence) != 26 {
		t.Errorf("%d entries", len(sequence))
	}
}

func TestStates(t *testing.T) {
	w := newWorld(t)
	now, later := &store.Ending{At: w.now}, &store.Ending{At: w.now.Add(1)}
	for want, c := range map[registry.State]store.Credential{
		registry.Active:   {ExpiresAt: w.now.Add(1), NotBefore: w.now},
		registry.Pending:  {NotBefore: w.now.Add(1), Rotated: later},
		registry.Disabled: {Disabled: now, NotBefore: w.now.Add(1), Rotated: later},
		registry.Expired:  {ExpiresAt: w.now, Disabled: now},
		registry.Rotating: {Rotated: later},
		registry.Rotated:  {Rotated: now, ExpiresAt: w.now, Disabled: now},
		registry.Revoked:  {Revoked: later, Rotated: now, Disabled: now},
	} {
		if got := registry.StateOf(&c, w.now); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
