package registry_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// G-11: the entry is in the transaction of what it tells of, and says who, by which
// credential, what, to what and why.
func TestAuditIsPartOfTheChange(t *testing.T) {
	w := newWorld(t)
	call := root()
	call.Actor.Credential, call.RequestID = "BBBBBBBBBBBB", "r-1"
	issued, change, err := w.IssueCredential(ctx, call, keyOf())
	w.ok(err)
	e := w.audit(registry.AuditQuery{Action: "credential.issue"})
	if len(e) != 1 || e[0].Change != change.Number || e[0].Actor != "/root" || e[0].Credential != "BBBBBBBBBBBB" ||
		e[0].Target != "credential/"+issued.ID || e[0].Tenant != "acme" || e[0].RequestID != "r-1" || e[0].Denied {
		t.Errorf("%+v", e)
	}
	if issued.Version != change.Number || change.EffectiveAt.Sub(change.CommittedAt) != time.Second {
		t.Errorf("version %d, change %+v", issued.Version, change)
	}
	before := len(w.audit(registry.AuditQuery{}))
	call.RequestID = ""
	_, _, err = w.IssueCredential(ctx, call, keyOf(func(s *registry.CredentialSpec) { s.TTL = -1 }))
	w.refused(err, registry.InvalidField, "ttl")
	if n := len(w.audit(registry.AuditQuery{})); n != before {
		t.Errorf("%d entries for a call that failed", n-before)
	}
}

// G-11: what is refused for lack of rights is in the log as well.
func TestRefusalsAreAudited(t *testing.T) {
	w := newWorld(t)
	foreign := w.key()
	for name, try := range map[string]func(registry.Call) error{
		"credential.issue": func(c registry.Call) error {
			c.Actor.Unlimited = false
			_, _, err := w.IssueCredential(ctx, c, keyOf(func(s *registry.CredentialSpec) { s.Tenant = "umbrella"; s.Rights.Scopes = []string{"x"} }))
			return err
		},
		"credential.revoke": func(c registry.Call) error {
			_, _, _, err := w.RevokeCredential(ctx, c, registry.EndRequest{ID: foreign.ID})
			return err
		},
		"tenant.create": func(c registry.Call) error {
			_, _, err := w.CreateTenant(ctx, c, registry.TenantSpec{ID: "mine"})
			return err
		},
	} {
		if err := try(of("umbrella")); err == nil {
			t.Fatalf("%s: not refused", name)
		}
		e := w.audit(registry.AuditQuery{Action: name})[0]
		if !e.Denied || e.Actor != "umbrella/boss" || e.Tenant != "umbrella" || e.Reason == "" || e.Change != 0 {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if e := w.audit(registry.AuditQuery{Action: "credential.revoke"})[0]; e.Target != "credential/"+foreign.ID {
		t.Errorf("%+v", e)
	}
	w.ok(w.Refused(ctx, of("acme"), registry.Refusal{Action: "audit.list", Tenant: "umbrella", Reason: strings.Repeat("ä", 999)}))
	e := w.audit(registry.AuditQuery{Action: "audit.list"})[0]
	if !e.Denied || e.Tenant != "acme" || len(e.Reason) > 512 {
		t.Errorf("%+v", e)
	}
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	w := newWorld(t)
	id := w.key().ID
	before := w.dump()
	call := root()
	call.ValidateOnly, call.RequestID = true, "once"
	issued, change, err := w.IssueCredential(ctx, call, keyOf())
	w.ok(err)
	if !issued.Secret.IsZero() || issued.ID != "" || issued.Digest != "" || change != (registry.Change{}) {
		t.Errorf("%+v %+v", issued, change)
	}
	rotated, _, err := w.RotateCredential(ctx, call, registry.RotateRequest{ID: id})
	w.ok(err)
	if !rotated.Secret.IsZero() || rotated.ID != "" {
		t.Errorf("%+v", rotated)
	}
	_, n, _, err := w.RevokeCredential(ctx, call, registry.EndRequest{ID: id})
	w.ok(err)
	_, _, err = w.DeletePrincipal(ctx, call, registry.DeletePrincipalRequest{Tenant: "acme", ID: "shop"})
	w.ok(err)
	d, _, err := w.AddDenial(ctx, call, store.Denial{JTI: "x"})
	w.ok(err)
	if n != 0 || d.ID != "" || w.dump() != before {
		t.Error("something has changed")
	}
	_, _, err = w.IssueCredential(ctx, call, keyOf(func(s *registry.CredentialSpec) { s.TTL = 91 * day }))
	w.refused(err, registry.TTLTooLong, "ttl")
}

func TestRequestIDs(t *testing.T) {
	w := newWorld(t)
	call := root()
	call.RequestID = "issue-1"
	issued, first, err := w.IssueCredential(ctx, call, keyOf())
	w.ok(err)

	_, _, err = w.IssueCredential(ctx, call, keyOf())
	if e := w.refused(err, registry.SecretNotRepeated, "request_id"); e.Meta["id"] != issued.ID {
		t.Errorf("%v does not name %s", e.Meta, issued.ID)
	}
	_, _, err = w.IssueCredential(ctx, call, keyOf(func(s *registry.CredentialSpec) { s.Name = "another" }))
	w.refused(err, registry.RequestIDReused, "request_id")
	_, _, err = w.RenewCredential(ctx, call, issued.ID)
	w.refused(err, registry.RequestIDReused, "request_id")

	// Ids are each caller's own.
	other := call
	other.Actor.ID = "other"
	_, second, err := w.IssueCredential(ctx, other, keyOf())
	w.ok(err)
	if second.Number == first.Number {
		t.Error("another caller's call was not carried out")
	}

	// What has no secret is repeated as it was.
	call.RequestID = "revoke-1"
	_, _, once, err := w.RevokeCredential(ctx, call, registry.EndRequest{ID: issued.ID})
	w.ok(err)
	w.now = w.now.Add(time.Hour)
	entries := len(w.audit(registry.AuditQuery{}))
	c, _, twice, err := w.RevokeCredential(ctx, call, registry.EndRequest{ID: issued.ID})
	w.ok(err)
	if twice != once || c.State != registry.Revoked || len(w.audit(registry.AuditQuery{})) != entries {
		t.Errorf("%+v, then %+v", once, twice)
	}
	// After a day they are forgotten.
	w.now = w.now.Add(day)
	_, _, again, err := w.RevokeCredential(ctx, call, registry.EndRequest{ID: issued.ID})
	w.ok(err)
	if again == once {
		t.Error("remembered for more than a day")
	}
	for _, bad := range []string{strings.Repeat("x", 129), "a\nb", issued.Secret.Reveal()} {
		call.RequestID = bad
		_, _, err = w.RenewCredential(ctx, call, issued.ID)
		w.refused(err, registry.InvalidField, "request_id")
	}
}

func TestEtags(t *testing.T) {
	w := newWorld(t)
	c := w.key()
	etag := c.Etag()
	rename := registry.UpdateCredentialRequest{ID: c.ID, Etag: etag, Fields: []string{"display_name"}, Spec: registry.CredentialSpec{Name: "b"}}
	updated, _, err := w.UpdateCredential(ctx, root(), rename)
	w.ok(err)
	if updated.Etag() == etag || updated.Etag() != w.get(c.ID).Etag() {
		t.Errorf("%s, %s, %s", etag, updated.Etag(), w.get(c.ID).Etag())
	}
	for name, try := range map[string]func() error{
		"update": func() error { _, _, err := w.UpdateCredential(ctx, root(), rename); return err },
		"rotate": func() error {
			_, _, err := w.RotateCredential(ctx, root(), registry.RotateRequest{ID: c.ID, Etag: etag})
			return err
		},
		"revoke": func() error {
			_, _, _, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: c.ID, Etag: etag})
			return err
		},
		"disable": func() error {
			_, _, err := w.DisableCredential(ctx, root(), registry.EndRequest{ID: c.ID, Etag: etag})
			return err
		},
		"principal": func() error {
			_, _, err := w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "shop", Etag: "v0"})
			return err
		},
		"tenant": func() error { _, _, err := w.DeleteTenant(ctx, root(), "acme", "v0"); return err },
	} {
		t.Run(name, func(t *testing.T) { w.refused(try(), registry.EtagMismatch, "etag") })
	}
}

// "No" and "could not find out" are different errors, and neither shows its cause.
func TestStoreFaults(t *testing.T) {
	w := newWorld(t)
	for _, cause := range []error{errors.New("connection to 10.0.0.7 refused"), store.ErrReadOnly, store.ErrClosed, context.DeadlineExceeded} {
		w.store.err = cause
		_, _, err := w.IssueCredential(ctx, root(), keyOf())
		w.refused(err, registry.StoreUnavailable, "")
		if !errors.Is(err, cause) || strings.Contains(err.Error(), "10.0.0.7") {
			t.Errorf("%v", err)
		}
	}
	w.store.err = store.Corrupt(store.KindCredential, "x", errors.New("not JSON"))
	_, _, err := w.IssueCredential(ctx, root(), keyOf())
	w.refused(err, registry.Internal, "")

	w.store.err = nil
	none := registry.New(registry.Config{}, w.store, registry.Deps{})
	_, _, err = none.IssueCredential(ctx, root(), keyOf())
	w.refused(err, registry.NotConfigured, "")
	_, _, err = none.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: "alice"})
	w.refused(err, registry.NotConfigured, "")
}

// The zero Actor is nobody: nothing is there for it, and it can do nothing.
func TestNobody(t *testing.T) {
	w := newWorld(t)
	c := w.key()
	before := len(w.audit(registry.AuditQuery{}))
	_, _, err := w.IssueCredential(ctx, registry.Call{}, keyOf())
	w.refused(err, registry.PermissionDenied, "")
	_, _, err = w.CreateTenant(ctx, registry.Call{}, registry.TenantSpec{ID: "x"})
	w.refused(err, registry.PermissionDenied, "")
	_, err = w.GetCredential(ctx, registry.Actor{}, c.ID)
	w.refused(err, registry.NotFound, "")
	_, _, err = w.ListCredentials(ctx, registry.Actor{}, registry.CredentialQuery{})
	w.refused(err, registry.PermissionDenied, "")
	_, _, err = w.ListTenants(ctx, registry.Actor{}, registry.Page{})
	w.refused(err, registry.PermissionDenied, "")
	if n := len(w.audit(registry.AuditQuery{})); n != before+2 {
		t.Errorf("%d refusals in the log, want 2", n-before)
	}
}

func TestReasonOf(t *testing.T) {
	w := newWorld(t)
	_, err := w.GetCredential(ctx, root().Actor, "nosuchid")
	if registry.ReasonOf(err) != registry.NotFound || registry.ReasonOf(nil) != "" || registry.ReasonOf(errors.New("x")) != registry.Internal {
		t.Error(err)
	}
}
