package registry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// Canary (G-11, K-04): after all of it, no secret that was issued, imported or typed
// is in a record, in the audit log, or in an error or a result as it prints.
func TestNoSecretStays(t *testing.T) {
	w := newWorld(t)
	var secrets []string
	var printed strings.Builder
	note := func(values ...any) {
		for _, v := range values {
			fmt.Fprintf(&printed, "%v %+v %#v\n", v, v, v)
		}
	}
	keep := func(s policy.Secret) string {
		secrets = append(secrets, s.Reveal())
		return s.Reveal()
	}
	key := w.key()
	text := keep(key.Secret)
	pat, _, err := w.IssueCredential(ctx, root(), patOf())
	w.ok(err)
	keep(pat.Secret)
	rotated := w.rotate(key.ID, time.Hour)
	keep(rotated.Secret)
	session := w.session()
	keep(session.Secret)
	next, _, err := w.RotateSession(ctx, root(), registry.RotateSessionRequest{ID: session.ID})
	w.ok(err)
	keep(next.Secret)
	boot, _, err := w.Bootstrap(ctx, false)
	w.ok(err)
	keep(boot.Secret)
	foreign := row("shop", "foreign-secret-0123456789")
	keep(foreign.Secret)
	done, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: []registry.ImportRow{foreign}})
	w.ok(err)
	w.setPassword("alice", "the password of alice")
	secrets = append(secrets, "the password of alice")
	logged, err := w.login("alice", "the password of alice")
	w.ok(err)
	keep(logged.Secret)
	note(key, pat, rotated, session, next, boot, done, logged, foreign)

	// A secret in every place where somebody may put it by mistake.
	call := root()
	call.RequestID = text
	call.Actor.Credential = text
	_, err = w.GetCredential(ctx, root().Actor, text)
	note(err)
	_, _, _, err = w.RevokeCredential(ctx, root(), registry.EndRequest{ID: text, Reason: text})
	note(err)
	_, _, _, err = w.RevokeCredential(ctx, root(), registry.EndRequest{ID: key.ID, Reason: "was " + text})
	note(err)
	for _, change := range []func(*spec){
		func(s *spec) { s.Name = text }, func(s *spec) { s.Principal = text }, func(s *spec) { s.Tenant = text },
		func(s *spec) { s.Environment = text }, func(s *spec) { s.Parent = text }, func(s *spec) { s.Rights.Roles = []string{text} },
		func(s *spec) { s.Metadata = map[string]any{text: text} },
		func(s *spec) {
			s.Constraints = &policy.Constraints{Methods: []string{text}, Resources: []string{text}, Audiences: []string{text}}
		},
	} {
		_, _, err := w.IssueCredential(ctx, root(), keyOf(change))
		note(err)
		_, _, err = w.IssueCredential(ctx, with(registry.Rights{}), keyOf(change))
		note(err)
	}
	_, _, err = w.CreatePrincipal(ctx, call, registry.CreatePrincipalRequest{PrincipalSpec: person{ID: text, Owner: text, Kind: policy.Kind(text), DisabledReason: text, Disabled: true}})
	note(err)
	_, _, err = w.CreateTenant(ctx, root(), registry.TenantSpec{ID: "x", Labels: map[string]string{"a": text, text: "b"}, Disabled: true, DisabledReason: text})
	note(err)
	_, _, err = w.AddDenial(ctx, root(), store.Denial{JTI: text, Note: text})
	note(err)
	_, _, err = w.AddDenial(ctx, root(), store.Denial{JTI: "x", Note: text})
	note(err)
	_, err = w.login(text, text)
	note(err)
	_, err = w.login("the password of alice", "x")
	note(err)
	_, _, err = w.UpdateCredential(ctx, root(), registry.UpdateCredentialRequest{ID: rotated.ID, Fields: []string{text}})
	note(err)
	_, _, err = w.ListCredentials(ctx, root().Actor, registry.CredentialQuery{Principal: text, Page: registry.Page{Token: text}})
	note(err)
	w.ok(w.Refused(ctx, call, registry.Refusal{Action: "credential.get", Target: "credential/" + text, Tenant: text, Reason: "no " + text}))

	kept := w.dump()
	for _, s := range secrets {
		// The digits of the secret are enough to give it away.
		body := s
		if len(s) > 60 {
			body = s[len(s)-49:]
		}
		if strings.Contains(kept, body) {
			t.Errorf("%.12s… is kept", s)
		}
		if strings.Contains(printed.String(), body) {
			t.Errorf("%.12s… is printed", s)
		}
	}
	if !strings.Contains(kept, "[secret]") {
		t.Error("nothing was taken out: the test tests nothing")
	}
}
