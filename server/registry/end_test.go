package registry_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
	"pgregory.net/rapid"
)

func TestDisableAndEnable(t *testing.T) {
	w := newWorld(t)
	c := w.key()
	disable := func(reason string) (*registry.Credential, error) {
		d, _, err := w.DisableCredential(ctx, root(), registry.EndRequest{ID: c.ID, Reason: reason})
		return d, err
	}
	d, err := disable("on holiday")
	w.ok(err)
	if d.State != registry.Disabled || d.Disabled.Reason != "on holiday" || d.Disabled.By != "/root" || !d.Disabled.At.Equal(w.now) {
		t.Errorf("%+v", d.Credential)
	}
	if e := w.audit(registry.AuditQuery{Action: "credential.disable"})[0]; e.Reason != "on holiday" {
		t.Errorf("%+v", e)
	}
	w.now = w.now.Add(time.Hour)
	d, err = disable("again") // it stays as it is
	w.ok(err)
	if d.Disabled.Reason != "on holiday" {
		t.Errorf("%+v", d.Disabled)
	}
	for range 2 {
		e, _, err := w.EnableCredential(ctx, root(), registry.EndRequest{ID: c.ID})
		w.ok(err)
		if e.State != registry.Active {
			t.Errorf("%s", e.State)
		}
	}
	_, _, _, err = w.RevokeCredential(ctx, root(), registry.EndRequest{ID: c.ID})
	w.ok(err)
	_, err = disable("")
	w.refused(err, registry.WrongState, "")
	_, _, err = w.EnableCredential(ctx, root(), registry.EndRequest{ID: c.ID})
	w.refused(err, registry.WrongState, "")
	_, err = disable("a\nb")
	w.refused(err, registry.InvalidField, "reason")
}

// P-06: revoking one token leaves its siblings and the password alone, is final, and
// says why. A secret that somebody puts into the reason does not stay there.
func TestRevoke(t *testing.T) {
	w := newWorld(t)
	one, _, err := w.IssueCredential(ctx, root(), patOf())
	w.ok(err)
	other, _, err := w.IssueCredential(ctx, root(), patOf())
	w.ok(err)
	secret := one.Secret.Reveal()
	c, n, change, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: one.ID, Reason: "leaked: " + secret})
	w.ok(err)
	if c.State != registry.Revoked || n != 0 || c.Revoked.Reason == "" || c.Version != change.Number || w.get(other.ID).State != registry.Active {
		t.Errorf("%+v", c.Credential)
	}
	if dump := w.dump(); slices.Contains([]bool{contains(dump, secret), contains(dump, secret[17:])}, true) {
		t.Error("the reason holds the secret")
	}
	w.now = w.now.Add(time.Hour)
	again, _, late, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: one.ID, Reason: "again"})
	w.ok(err)
	if again.Revoked.Reason != c.Revoked.Reason || again.Version != c.Version || late.Number < change.Number {
		t.Errorf("%+v", again.Credential)
	}
}

// Property: when a credential is revoked, nothing that falls with it lives, and
// everything else does.
func TestPropertyRevocationCascades(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		owners := []string{"shop", "till", "drawer"} // each owned by the one before
		for i, id := range owners[1:] {
			w.principal(registry.PrincipalSpec{Tenant: "acme", ID: id, Kind: policy.KindService, Owner: owners[i]})
		}
		parent := map[string]string{}
		var ids []string
		owner := map[string]int{}
		for range rapid.IntRange(1, 12).Draw(t, "credentials") {
			at := rapid.IntRange(0, 2).Draw(t, "owner")
			above := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return owner[id] > at })
			from := ""
			if len(above) > 0 && rapid.Bool().Draw(t, "child") {
				from = rapid.SampledFrom(above).Draw(t, "parent")
			}
			c := w.key(func(s *spec) { s.Principal, s.Parent = owners[at], from })
			ids, parent[c.ID], owner[c.ID] = append(ids, c.ID), from, at
		}
		falls := func(id string, with []string) bool {
			for ; id != ""; id = parent[id] {
				if slices.Contains(with, id) {
					return true
				}
			}
			return false
		}
		victims := rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 1, 3, rapid.ID[string]).Draw(t, "revoked")
		var fell []string
		if len(victims) == 1 {
			_, n, _, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: victims[0]})
			w.ok(err)
			fell = make([]string, n+1)
		} else {
			var err error
			fell, _, err = w.BatchRevokeCredentials(ctx, root(), registry.BatchRevokeRequest{IDs: victims})
			w.ok(err)
		}
		dead := 0
		for _, id := range ids {
			state := w.get(id).State
			if want := falls(id, victims); want != (state == registry.Revoked) {
				t.Fatalf("%s is %s", id, state)
			} else if want {
				dead++
			}
		}
		if dead != len(fell) {
			t.Fatalf("%d are dead, %d were reported", dead, len(fell))
		}
	})
}

func TestBatchRevoke(t *testing.T) {
	w := newWorld(t)
	a, b, foreign := w.key(), w.key(), w.key(func(s *spec) { s.Tenant = "umbrella" })
	pat, _, err := w.IssueCredential(ctx, root(), patOf())
	w.ok(err)
	batch := func(call registry.Call, req registry.BatchRevokeRequest) ([]string, error) {
		ids, _, err := w.BatchRevokeCredentials(ctx, call, req)
		return ids, err
	}
	for name, tt := range map[string]struct {
		call   registry.Call
		req    registry.BatchRevokeRequest
		reason registry.Reason
		field  string
	}{
		"nothing":        {root(), registry.BatchRevokeRequest{}, registry.InvalidField, "ids"},
		"both":           {root(), registry.BatchRevokeRequest{IDs: []string{a.ID}, Tenant: "acme"}, registry.InvalidField, "ids"},
		"too many":       {root(), registry.BatchRevokeRequest{IDs: make([]string, 1001)}, registry.InvalidField, "ids"},
		"unknown":        {root(), registry.BatchRevokeRequest{IDs: []string{a.ID, "000000000000"}}, registry.NotFound, "ids[1]"},
		"foreign":        {of("acme"), registry.BatchRevokeRequest{IDs: []string{a.ID, foreign.ID}}, registry.NotFound, "ids[1]"},
		"foreign tenant": {of("acme"), registry.BatchRevokeRequest{Tenant: "umbrella"}, registry.NotFound, ""},
		"no principal":   {root(), registry.BatchRevokeRequest{Tenant: "acme", Principal: "nobody"}, registry.NotFound, ""},
	} {
		_, err := batch(tt.call, tt.req)
		t.Run(name, func(t *testing.T) { w.refused(err, tt.reason, tt.field) })
	}
	if w.get(a.ID).State != registry.Active {
		t.Error("a call that failed has revoked something")
	}
	call := root()
	call.RequestID = "batch"
	for range 2 {
		ids, err := batch(call, registry.BatchRevokeRequest{IDs: []string{a.ID, a.ID, b.ID}, Reason: "audit"})
		w.ok(err)
		if !slices.Equal(ids, []string{a.ID, b.ID}) {
			t.Errorf("%v", ids)
		}
	}
	c := w.key()
	ids, err := batch(root(), registry.BatchRevokeRequest{Tenant: "acme", Principal: "shop"})
	w.ok(err)
	if !slices.Equal(ids, []string{c.ID}) || w.get(pat.ID).State != registry.Active {
		t.Errorf("%v", ids)
	}
	ids, err = batch(of("acme"), registry.BatchRevokeRequest{Tenant: "acme"})
	w.ok(err)
	if !slices.Equal(ids, []string{pat.ID}) || w.get(foreign.ID).State != registry.Active {
		t.Errorf("%v", ids)
	}
}

// Property: when a principal is deleted, nothing of it or of what it owns is left,
// and everything else is.
func TestPropertyDeletionCascades(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		owner := map[string]string{}
		var all []string
		for i := range rapid.IntRange(1, 8).Draw(t, "principals") {
			id := fmt.Sprintf("p%d", i)
			if len(all) > 0 && rapid.Bool().Draw(t, "owned") {
				owner[id] = rapid.SampledFrom(all).Draw(t, "owner")
			}
			all = append(all, id)
			w.principal(registry.PrincipalSpec{Tenant: "acme", ID: id, Kind: policy.KindUser, Owner: owner[id]})
			_, _, err := w.IssueCredential(ctx, root(), patOf(func(s *spec) { s.Principal = id }))
			w.ok(err)
			_, _, err = w.CreateSession(ctx, root(), registry.SessionSpec{Tenant: "acme", Principal: id})
			w.ok(err)
		}
		victim := rapid.SampledFrom(all).Draw(t, "victim")
		n, _, err := w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: victim})
		w.ok(err)
		gone := 0
		for _, id := range all {
			falls := false
			for up := id; up != ""; up = owner[up] {
				falls = falls || up == victim
			}
			_, err := w.GetPrincipal(ctx, root().Actor, "acme", id)
			credentials, _, err2 := w.ListCredentials(ctx, root().Actor, registry.CredentialQuery{Tenant: "acme", Principal: id})
			w.ok(err2)
			sessions, _, err3 := w.ListSessions(ctx, root().Actor, registry.SessionQuery{Tenant: "acme", Principal: id})
			w.ok(err3)
			if left := len(credentials) + len(sessions); falls != (err != nil) || falls && left != 0 || !falls && left != 2 {
				t.Fatalf("%s falls: %v; %v, %d left", id, falls, err, left)
			}
			if falls {
				gone += 3
			}
		}
		if n != gone {
			t.Fatalf("%d records reported, %d gone", n, gone)
		}
	})
}

// A tenant is deleted only after it was disabled, and then nothing of it is left.
func TestDeleteTenant(t *testing.T) {
	w := newWorld(t)
	w.key()
	kept := w.key(func(s *spec) { s.Tenant = "umbrella" })
	_, _, err := w.CreateSession(ctx, root(), registry.SessionSpec{Tenant: "acme", Principal: "alice"})
	w.ok(err)
	_, _, err = w.AddDenial(ctx, root(), store.Denial{Tenant: "acme", JTI: "x"})
	w.ok(err)
	_, _, err = w.DeleteTenant(ctx, root(), "acme", "")
	w.refused(err, registry.WrongState, "")
	_, _, err = w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{
		Fields: []string{"disabled", "disabled_reason"}, Spec: registry.TenantSpec{ID: "acme", Disabled: true, DisabledReason: "left"},
	})
	w.ok(err)
	w.refused(second(w.IssueCredential(ctx, root(), keyOf())), registry.WrongState, "tenant")
	_, _, err = w.CreatePrincipal(ctx, root(), registry.CreatePrincipalRequest{PrincipalSpec: registry.PrincipalSpec{Tenant: "acme", ID: "new", Kind: policy.KindUser}})
	w.refused(err, registry.WrongState, "tenant")
	_, _, err = w.DeleteTenant(ctx, of("acme"), "acme", "")
	w.refused(err, registry.PermissionDenied, "")

	call := root()
	call.RequestID = "delete"
	for range 2 {
		n, _, err := w.DeleteTenant(ctx, call, "acme", "")
		w.ok(err)
		if n != 6 { // itself, two principals, a key, a session, a line
			t.Errorf("%d records", n)
		}
	}
	batch, err := w.store.Changes(ctx, 0, 1000)
	w.ok(err)
	for _, r := range batch.Records {
		if r.Tenant == "acme" && !r.Deleted {
			t.Errorf("%s %s is left", r.Kind, r.ID)
		}
	}
	if w.get(kept.ID).State != registry.Active {
		t.Error("another tenant's key is gone")
	}
}
