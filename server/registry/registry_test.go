package registry_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

const day = 24 * time.Hour

var ctx = context.Background()

// world is a registry with two tenants, somebody in each, and a clock.
type world struct {
	*registry.Registry
	t         tester
	now       time.Time
	store     *faulty
	passwords *plain
	peppers   *seal.Peppers
	signer    *signer.Signer // nil: there are no signing keys
	seen      []int64        // the changes that were waited for
	hangs     bool           // this replica hears of no change
}

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// faulty is a store that can be made to fail. It runs every transaction twice, and
// keeps the second: a store may do that whenever two of them meet.
type faulty struct {
	*memory.Store
	err error
}

var errConflict = errors.New("conflict")

func (f *faulty) Update(ctx context.Context, fn func(store.Tx) error) (store.Change, error) {
	if f.err != nil {
		return store.Change{}, f.err
	}
	_, _ = f.Store.Update(ctx, func(tx store.Tx) error { return errors.Join(errConflict, fn(tx)) })
	return f.Store.Update(ctx, fn)
}

// plain hashes at no cost, and counts.
type plain struct {
	verified int
	err      error
}

func (p *plain) Hash(_ context.Context, secret policy.Secret) (string, error) {
	sum := sha256.Sum256([]byte(secret.Reveal()))
	return "new:" + hex.EncodeToString(sum[:]), p.err
}

func (p *plain) Verify(ctx context.Context, hash string, secret policy.Secret) (bool, error) {
	p.verified++
	want, _ := p.Hash(ctx, secret)
	_, have, _ := strings.Cut(hash, ":")
	return have == strings.TrimPrefix(want, "new:"), p.err
}

func (p *plain) NeedsRehash(hash string) bool { return !strings.HasPrefix(hash, "new:") }

func (p *plain) Check(hash string) error {
	if !strings.Contains(hash, ":") {
		return errors.New("not a hash")
	}
	return nil
}

func newWorld(t tester, configure ...func(*registry.Config)) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), passwords: &plain{}}
	clock := func() time.Time { return w.now }
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret("0123456789abcdef0123456789abcdef-pepper")}})
	if err != nil {
		t.Fatal(err)
	}
	w.peppers = peppers
	var cfg registry.Config
	for _, c := range configure {
		c(&cfg)
	}
	w.store = &faulty{Store: memory.New(clock)}
	w.Registry = registry.New(cfg, w.store, registry.Deps{
		Now: clock, Peppers: peppers, Passwords: w.passwords,
		Signer: func() *signer.Signer { return w.signer },
		Seen: func(ctx context.Context, change int64) error {
			if w.hangs {
				<-ctx.Done()
			}
			w.seen = append(w.seen, change)
			return ctx.Err()
		},
	})
	for _, id := range []string{"acme", "umbrella"} {
		_, _, err := w.CreateTenant(ctx, root(), registry.TenantSpec{ID: id})
		w.ok(err)
	}
	for _, tenant := range []string{"", "acme", "umbrella"} {
		w.principal(registry.PrincipalSpec{Tenant: tenant, ID: "alice", Kind: policy.KindUser, Rights: registry.Rights{
			Roles: []string{"clerk", "reader"}, Scopes: []string{"orders.read", "orders.write"}, Permissions: []string{"reports.read"},
		}})
		w.principal(registry.PrincipalSpec{Tenant: tenant, ID: "shop", Kind: policy.KindService})
	}
	return w
}

// root may do everything, everywhere.
func root() registry.Call {
	return registry.Call{Actor: registry.Actor{
		ID: "root", Unlimited: true, Wildcard: true, Rights: registry.Rights{Roles: []string{registry.PlatformAdmin}},
	}}
}

// of is an unlimited administrator of a tenant.
func of(tenant string) registry.Call {
	return registry.Call{Actor: registry.Actor{
		Tenant: tenant, ID: "boss", Unlimited: true, Rights: registry.Rights{Roles: []string{registry.TenantAdmin}},
	}}
}

// with has some rights, in the tenant acme.
func with(rights registry.Rights) registry.Call {
	return registry.Call{Actor: registry.Actor{Tenant: "acme", ID: "issuer", Credential: "AAAAAAAAAAAA", Rights: rights}}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// refused fails unless the error has the reason, and the fault of it the field.
func (w *world) refused(err error, reason registry.Reason, field string) *registry.Error {
	w.t.Helper()
	var e *registry.Error
	if !errors.As(err, &e) || e.Reason != reason {
		w.t.Fatalf("got %v, want %s", err, reason)
	}
	if !slices.ContainsFunc(e.All(), func(f registry.Fault) bool { return f.Field == field }) {
		w.t.Fatalf("%v is not about the field %q", err, field)
	}
	return e
}

func (w *world) principal(spec registry.PrincipalSpec) *store.Principal {
	w.t.Helper()
	p, _, err := w.CreatePrincipal(ctx, root(), registry.CreatePrincipalRequest{PrincipalSpec: spec, AllowWildcard: true})
	w.ok(err)
	return p
}

// key issues an API key of acme's shop.
func (w *world) key(change ...func(*registry.CredentialSpec)) *registry.Issued {
	w.t.Helper()
	issued, _, err := w.IssueCredential(ctx, root(), keyOf(change...))
	w.ok(err)
	return issued
}

func keyOf(change ...func(*registry.CredentialSpec)) registry.IssueRequest {
	req := registry.IssueRequest{CredentialSpec: registry.CredentialSpec{
		Type: store.APIKey, Tenant: "acme", Principal: "shop", Name: "a key",
	}}
	for _, c := range change {
		c(&req.CredentialSpec)
	}
	return req
}

// pat makes a request for a personal access token of acme's alice.
func patOf(change ...func(*registry.CredentialSpec)) registry.IssueRequest {
	return keyOf(append([]func(*registry.CredentialSpec){func(s *registry.CredentialSpec) {
		s.Type, s.Principal, s.Name = store.PAT, "alice", "laptop"
	}}, change...)...)
}

func (w *world) get(id string) *registry.Credential {
	w.t.Helper()
	c, err := w.GetCredential(ctx, root().Actor, id)
	w.ok(err)
	return c
}

func (w *world) audit(q registry.AuditQuery) []store.AuditEntry {
	w.t.Helper()
	q.Size = 1000
	entries, _, err := w.ListAudit(ctx, root().Actor, q)
	w.ok(err)
	return entries
}

// dump is everything that is kept, as text.
func (w *world) dump() string {
	w.t.Helper()
	var b strings.Builder
	batch, err := w.store.Changes(ctx, 0, 1_000_000)
	w.ok(err)
	for _, r := range batch.Records {
		fmt.Fprintf(&b, "%s %s %s %s %s\n", r.Kind, r.ID, r.Owner, r.Digest, r.Body)
	}
	entries, err := w.store.Audit(ctx, store.AuditQuery{})
	w.ok(err)
	for _, e := range entries {
		fmt.Fprintf(&b, "%+v\n", e)
	}
	return b.String()
}
