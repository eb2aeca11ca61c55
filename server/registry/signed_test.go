package registry_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
)

// signs gives the world signing keys, the first of which signs.
func (w *world) signs(ids ...string) {
	w.t.Helper()
	cfg := signer.Config{Issuer: "https://auth.example.com"}
	for _, id := range ids {
		cfg.Keys = append(cfg.Keys, signer.KeyConfig{ID: id, Key: policy.NewSecret(strings.Repeat(id, 64)[:42] + "A")})
	}
	s, err := signer.New(cfg, signer.Deps{})
	w.ok(err)
	w.signer = s
}

func jwtOf(change ...func(*spec)) registry.IssueRequest {
	return patOf(append([]func(*spec){func(s *spec) { s.Format = store.JWT }}, change...)...)
}

func claimsOf(t *testing.T, secret policy.Secret) (claims map[string]any) {
	t.Helper()
	parts := strings.Split(secret.Reveal(), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &claims) != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return claims
}

// P-13: a token that is a JWT is a record like any other: found by its jti, known by a
// digest of its whole text, and nowhere else.
func TestIssueJWT(t *testing.T) {
	w := newWorld(t)
	_, _, err := w.IssueCredential(ctx, root(), jwtOf())
	w.refused(err, registry.NotConfigured, "format")
	w.signs("k1")
	issued, _, err := w.IssueCredential(ctx, root(), jwtOf(func(s *spec) { s.Rights.Scopes, s.Environment = []string{"orders.read"}, "live" }))
	w.ok(err)
	claims := claimsOf(t, issued.Secret)
	for name, want := range map[string]any{
		"jti": issued.ID, "sub": "alice", "tenant": "acme", "env": "live", "iss": "https://auth.example.com", "aud": "https://auth.example.com",
		"iat": float64(w.now.Unix()), "exp": float64(w.now.Add(90 * day).Unix()),
	} {
		if claims[name] != want {
			t.Errorf("%s is %v", name, claims[name])
		}
	}
	if len(claims) != 8 {
		t.Errorf("it says more than it must: %v", claims)
	}
	got := w.get(issued.ID)
	if digest := w.peppers.Digest(issued.Secret); got.Digest != digest.String() || got.Format != store.JWT {
		t.Errorf("%+v", got.Credential)
	}
	signature := issued.Secret.Reveal()[strings.LastIndexByte(issued.Secret.Reveal(), '.')+1:]
	if strings.Contains(w.dump(), signature) {
		t.Error("the store holds the token")
	}
	dry := root()
	dry.ValidateOnly = true
	checked, change, err := w.IssueCredential(ctx, dry, jwtOf())
	w.ok(err)
	if !checked.Secret.IsZero() || checked.ID != "" || change.Number != 0 {
		t.Error("a dry run makes a token")
	}
}

// P-13: only personal access tokens are JWTs, and only those that are made here.
func TestIssueJWTRefuses(t *testing.T) {
	w := newWorld(t)
	w.signs("k1")
	for name, tt := range map[string]struct {
		req   registry.IssueRequest
		field string
	}{
		"a key":     {keyOf(func(s *spec) { s.Format = store.JWT }), "format"},
		"a form":    {patOf(func(s *spec) { s.Format = "paseto" }), "format"},
		"renewable": {jwtOf(func(s *spec) { s.Period = day }), "renew_period"},
	} {
		_, _, err := w.IssueCredential(ctx, root(), tt.req)
		t.Run(name, func(*testing.T) { w.refused(err, registry.InvalidField, tt.field) })
	}
	row := registry.ImportRow{CredentialSpec: jwtOf().CredentialSpec, Secret: policy.NewSecret("a-foreign-secret-0123456789")}
	_, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: []registry.ImportRow{row}})
	w.refused(err, registry.InvalidField, "credentials[0].format")
}

// P-13: its end stands in it, so that it can only come sooner; a successor is a JWT too,
// signed with the key that signs then.
func TestLifeOfAJWT(t *testing.T) {
	w := newWorld(t)
	w.signs("k1")
	issued, _, err := w.IssueCredential(ctx, root(), jwtOf(func(s *spec) { s.TTL = 10 * day }))
	w.ok(err)
	update := func(ttl time.Duration) error {
		_, _, err := w.UpdateCredential(ctx, root(), registry.UpdateCredentialRequest{ID: issued.ID, Fields: []string{"ttl"}, Spec: spec{TTL: ttl}})
		return err
	}
	w.refused(update(11*day), registry.WrongState, "expire_time")
	w.ok(update(5 * day))
	w.refused(update(6*day), registry.WrongState, "expire_time")
	_, _, err = w.UpdateCredential(ctx, root(), registry.UpdateCredentialRequest{ID: issued.ID, Fields: []string{"renew_period"}, Spec: spec{Period: day}})
	w.refused(err, registry.InvalidField, "renew_period")

	w.signs("k2", "k1")
	rotated, _, err := w.RotateCredential(ctx, root(), registry.RotateRequest{ID: issued.ID, Grace: time.Hour})
	w.ok(err)
	if rotated.Format != store.JWT || claimsOf(t, rotated.Secret)["jti"] != rotated.ID || w.peppers.Digest(rotated.Secret).String() != rotated.Digest {
		t.Errorf("%+v", rotated.Credential)
	}
	head, _ := base64.RawURLEncoding.DecodeString(strings.Split(rotated.Secret.Reveal(), ".")[0])
	if !strings.Contains(string(head), `"k2"`) {
		t.Errorf("signed with another key: %s", head)
	}
	w.signer = nil
	_, _, err = w.RotateCredential(ctx, root(), registry.RotateRequest{ID: rotated.ID})
	w.refused(err, registry.NotConfigured, "format")
	if w.get(rotated.ID).State != registry.Active {
		t.Error("a rotation that failed ended the old one")
	}
}

// P-13, J-09: a line of the denylist may name Postern by the iss of its tokens; a key of
// its own is taken away where the keys are.
func TestDenialOfOurOwn(t *testing.T) {
	w := newWorld(t)
	w.signs("k1")
	line, _, err := w.AddDenial(ctx, root(), store.Denial{JTI: "4fQzR8xW0bLm", Issuer: "https://auth.example.com"})
	w.ok(err)
	if line.Issuer != seal.Issuer {
		t.Errorf("the line is about %q", line.Issuer)
	}
	for _, issuer := range []string{seal.Issuer, "https://auth.example.com"} {
		_, _, err = w.AddDenial(ctx, root(), store.Denial{KID: "k1", Issuer: issuer})
		w.refused(err, registry.InvalidField, "kid")
	}
	_, _, err = w.AddDenial(ctx, root(), store.Denial{KID: "k1", Issuer: "https://idp"})
	w.ok(err)
}

// K-01, K-05: what a call has made is known to this replica when it returns. It waits
// for its own changes only, and no longer than every replica may take.
func TestCallsWaitForTheirReplica(t *testing.T) {
	w := newWorld(t)
	w.seen = nil
	var want []int64
	issued, change, err := w.IssueCredential(ctx, root(), keyOf())
	w.ok(err)
	want = append(want, change.Number)
	rotated, change, err := w.RotateCredential(ctx, root(), registry.RotateRequest{ID: issued.ID})
	w.ok(err)
	want = append(want, change.Number)
	_, _, change, err = w.RevokeCredential(ctx, root(), registry.EndRequest{ID: rotated.ID})
	w.ok(err)
	want = append(want, change.Number)
	dry := root()
	dry.ValidateOnly = true
	_, _, err = w.IssueCredential(ctx, dry, keyOf())
	w.ok(err)
	_, _, err = w.IssueCredential(ctx, root(), keyOf(func(s *spec) { s.Principal = "nobody" }))
	w.refused(err, registry.NotFound, "principal_id")
	if len(w.seen) != len(want) || w.seen[0] != want[0] || w.seen[1] != want[1] || w.seen[2] != want[2] {
		t.Errorf("waited for %v, made %v", w.seen, want)
	}
	synctest.Test(t, func(t *testing.T) {
		w.hangs = true
		defer func() { w.hangs = false }()
		began := time.Now()
		issued, _, err := w.IssueCredential(ctx, root(), keyOf())
		if err != nil || issued.Secret.IsZero() || time.Since(began) != time.Second {
			t.Errorf("%v after %s: a replica that hears nothing holds up who issues", err, time.Since(began))
		}
	})
}

// G-09: what the installation has turned off, no tenant turns on, whichever way it
// tries; what the tenant itself, or nobody, has turned off, it does.
func TestTenantDoesNotUndoTheInstallation(t *testing.T) {
	w := newWorld(t)
	c := w.key()
	disable := func(call registry.Call) {
		_, _, err := w.DisableCredential(ctx, call, registry.EndRequest{ID: c.ID})
		w.ok(err)
	}
	enable := func(call registry.Call) error {
		_, _, err := w.EnableCredential(ctx, call, registry.EndRequest{ID: c.ID})
		return err
	}
	disable(of("acme"))
	w.ok(enable(of("acme")))
	disable(root())
	disable(of("acme")) // changes nothing
	w.refused(enable(of("acme")), registry.PermissionDenied, "")
	if e := w.audit(registry.AuditQuery{Action: "credential.enable"})[0]; !e.Denied {
		t.Errorf("%+v", e)
	}
	w.ok(enable(root()))

	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "till", Kind: policy.KindService, Owner: "shop"})
	set := func(call registry.Call, id string, fields []string, s registry.PrincipalSpec) error {
		s.Tenant, s.ID = "acme", id
		_, _, err := w.UpdatePrincipal(ctx, call, registry.UpdatePrincipalRequest{Fields: fields, Spec: s})
		return err
	}
	off := registry.PrincipalSpec{Disabled: true, DisabledReason: "abuse"}
	w.ok(set(root(), "shop", []string{"disabled", "disabled_reason"}, off))
	for name, err := range map[string]error{
		"on":        set(of("acme"), "shop", []string{"disabled"}, registry.PrincipalSpec{}),
		"reason":    set(of("acme"), "shop", []string{"disabled_reason"}, registry.PrincipalSpec{DisabledReason: "mine now"}),
		"no reason": set(of("acme"), "shop", []string{"disabled_reason"}, registry.PrincipalSpec{}),
		"delete": func() error {
			_, _, err := w.DeletePrincipal(ctx, of("acme"), registry.DeletePrincipalRequest{Tenant: "acme", ID: "shop"})
			return err
		}(),
		"take its own": set(of("acme"), "till", []string{"owner_id"}, registry.PrincipalSpec{}),
	} {
		var e *registry.Error
		if !errors.As(err, &e) || e.Reason != registry.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.ok(set(of("acme"), "shop", []string{"display_name"}, registry.PrincipalSpec{Name: "The shop"})) // it stays off
	w.ok(set(root(), "shop", []string{"disabled"}, registry.PrincipalSpec{}))
	w.ok(set(of("acme"), "shop", []string{"disabled"}, off))
	w.ok(set(of("acme"), "shop", []string{"disabled"}, registry.PrincipalSpec{}))

	_, _, err := w.CreatePrincipal(ctx, root(), registry.CreatePrincipalRequest{PrincipalSpec: registry.PrincipalSpec{ID: "postern", Kind: policy.KindService}})
	w.refused(err, registry.InvalidField, "id") // who turns off what nobody uses
}

// K-07: revoking what was rotated leaves its successor alone, and says that it is there;
// with all that took its place, the line ends.
func TestRevokeAfterRotation(t *testing.T) {
	w := newWorld(t)
	first := w.key()
	second, _, err := w.RotateCredential(ctx, root(), registry.RotateRequest{ID: first.ID, Grace: time.Hour})
	w.ok(err)
	third, _, err := w.RotateCredential(ctx, root(), registry.RotateRequest{ID: second.ID, Grace: time.Hour})
	w.ok(err)
	child := w.key(func(s *spec) { s.Parent = third.ID })
	c, n, _, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: first.ID})
	w.ok(err)
	if n != 0 || c.LivingSuccessor != third.ID || w.get(third.ID).State != registry.Active || w.get(second.ID).State != registry.Rotating {
		t.Errorf("%d fell, %+v", n, c)
	}
	c, n, _, err = w.RevokeCredential(ctx, root(), registry.EndRequest{ID: first.ID, Successors: true})
	w.ok(err)
	if n != 3 || c.LivingSuccessor != "" {
		t.Errorf("%d fell, %+v", n, c)
	}
	for _, id := range []string{first.ID, second.ID, third.ID, child.ID} {
		if w.get(id).State != registry.Revoked {
			t.Errorf("%s is %s", id, w.get(id).State)
		}
	}
}

// G-09: roles that the installation has added to the admin API are granted by who has
// one at least as strong, whatever else they may grant.
func TestRanksOfOtherRoles(t *testing.T) {
	w := newWorld(t)
	grant := func(call registry.Call) error {
		_, _, err := w.IssueCredential(ctx, call, keyOf(func(s *spec) { s.Rights.Roles = []string{"helpdesk"} }))
		return err
	}
	call := with(rights("r:team-lead"))
	call.Actor.Unlimited = true
	w.ok(grant(call)) // it means nothing
	call.Actor.Ranks = map[string][]string{"helpdesk": {registry.PlatformAdmin, registry.TenantAdmin, "helpdesk"}}
	w.refused(grant(call), registry.GrantExceedsIssuer, "roles")
	call.Actor.Rights.Roles = []string{"helpdesk"}
	w.ok(grant(call))
}

// X-02, G-09: a credential that is bound to a workload issues only what is bound to it.
func TestBoundToAWorkload(t *testing.T) {
	w := newWorld(t)
	const cert = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	limited := func(peers ...string) func(*spec) {
		return func(s *spec) { s.Constraints = &policy.Constraints{Peers: peers} }
	}
	c := w.key(limited("spiffe://acme/billing", cert))
	if got := w.get(c.ID).Constraints; got == nil || len(got.Peers) != 2 {
		t.Errorf("%+v", got)
	}
	for name, tt := range map[string]struct {
		peers []string
		field string
	}{
		"short":      {[]string{"sha256:0a"}, "constraints.peers[0]"},
		"upper case": {[]string{cert[:len(cert)-2] + "0A"}, "constraints.peers[0]"},
		"empty":      {[]string{}, "constraints.peers"},
		"no text":    {[]string{"a\x00"}, "constraints.peers[0]"},
		"many":       {strings.Split(strings.Repeat("a ", 65), " ")[:65], "constraints.peers"},
	} {
		_, _, err := w.IssueCredential(ctx, root(), keyOf(limited(tt.peers...)))
		if tt.peers != nil && len(tt.peers) == 0 {
			_, _, err = w.IssueCredential(ctx, root(), keyOf(func(s *spec) { s.Constraints = &policy.Constraints{Peers: []string{}} }))
		}
		t.Run(name, func(*testing.T) { w.refused(err, registry.InvalidField, tt.field) })
	}
	issuer := with(rights(""))
	issuer.Actor.Constraints = &policy.Constraints{Peers: []string{cert}}
	for _, c := range []struct {
		peers []string
		ok    bool
	}{{[]string{cert}, true}, {nil, false}, {[]string{cert, "b"}, false}} {
		req := keyOf(func(s *spec) { s.Constraints = &policy.Constraints{Peers: c.peers} })
		if _, _, err := w.IssueCredential(ctx, issuer, req); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.peers, err)
		}
	}
}

// T-05: a text that the form of a credential sends to somebody else would never be
// looked for: it is refused rather than taken in vain.
func TestImportOfOtherForms(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.Prefix = "acme" })
	own := w.key()
	for text, part := range map[string]string{
		"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl": "JWT",
		"a1.b2.c3":                     "JWT",
		"eyJhbGciOiJub25lIn0":          "JWT",
		"hvs.CAESIJ0123456789abcdef":   "Vault",
		"hvb.AAAAAQ":                   "Vault",
		"hvr.AAAAAQ":                   "Vault",
		"s.0123456789abcdefghijklmn":   "Vault",
		"b.0123456789abcdefghijklmno":  "Vault",
		"acme_live_0123456789abcdefgh": "our own",
		own.Secret.Reveal():            "our own",
	} {
		row := registry.ImportRow{CredentialSpec: keyOf().CredentialSpec, Secret: policy.NewSecret(text)}
		_, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: []registry.ImportRow{row}})
		e := w.refused(err, registry.InvalidField, "credentials[0].secret")
		if !strings.Contains(e.Message, part) || len(text) > 12 && strings.Contains(e.Error(), text) {
			t.Errorf("%s", e.Message)
		}
	}
	for _, text := range []string{"sk_live_abc123def456ghi789", "abc1234", "s.short", "b.c", "pst_0123456789abcdef0123"} {
		row := registry.ImportRow{CredentialSpec: keyOf().CredentialSpec, Secret: policy.NewSecret(text)}
		if _, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: []registry.ImportRow{row}}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
