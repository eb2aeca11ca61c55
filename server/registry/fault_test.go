package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/iotest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// flaky fails at the n-th thing that is asked of it in one transaction or view.
type flaky struct {
	store.Store
	n int
}

var errLost = errors.New("the connection was lost")

func (f *flaky) Update(ctx context.Context, fn func(store.Tx) error) (store.Change, error) {
	return f.Store.Update(ctx, func(tx store.Tx) error { return fn(&flakyTx{tx, f}) })
}

func (f *flaky) View(ctx context.Context, fn func(store.Reader) error) error {
	return f.Store.View(ctx, func(from store.Reader) error { return fn(flakyReader{from, f}) })
}

func (f *flaky) ask() error {
	f.n--
	if f.n == -1 {
		return errLost
	}
	return nil
}

type flakyReader struct {
	store.Reader
	f *flaky
}

func (r flakyReader) Get(kind store.Kind, id string) (store.Record, error) {
	if err := r.f.ask(); err != nil {
		return store.Record{}, err
	}
	return r.Reader.Get(kind, id)
}

func (r flakyReader) List(q store.Query) ([]store.Record, error) {
	if err := r.f.ask(); err != nil {
		return nil, err
	}
	return r.Reader.List(q)
}

func (r flakyReader) ByDigest(digest string) (store.Record, error) {
	if err := r.f.ask(); err != nil {
		return store.Record{}, err
	}
	return r.Reader.ByDigest(digest)
}

type flakyTx struct {
	store.Tx
	f *flaky
}

func (t *flakyTx) Get(kind store.Kind, id string) (store.Record, error) {
	return flakyReader{t.Tx, t.f}.Get(kind, id)
}

func (t *flakyTx) List(q store.Query) ([]store.Record, error) {
	return flakyReader{t.Tx, t.f}.List(q)
}

func (t *flakyTx) ByDigest(digest string) (store.Record, error) {
	return flakyReader{t.Tx, t.f}.ByDigest(digest)
}

func (t *flakyTx) Put(r store.Record) error {
	if err := t.f.ask(); err != nil {
		return err
	}
	return t.Tx.Put(r)
}

func (t *flakyTx) Delete(kind store.Kind, id string) error {
	if err := t.f.ask(); err != nil {
		return err
	}
	return t.Tx.Delete(kind, id)
}

func (t *flakyTx) Note(e store.AuditEntry) error {
	if err := t.f.ask(); err != nil {
		return err
	}
	return t.Tx.Note(e)
}

// Wherever the store fails in the middle of an operation, the answer is that it is
// not known, never "no" or "done", and nothing of it stays.
func TestOperationsAreDoneWholeOrNotAtAll(t *testing.T) {
	call := root()
	call.RequestID = "once"
	type made struct{ parent, key, agentKey, session, rotated, line string }
	operations := map[string]func(r *registry.Registry, m made) error{
		"issue": func(r *registry.Registry, m made) error {
			return second(r.IssueCredential(ctx, call, patOf(func(s *spec) { s.Rights = rights("r:clerk p:orders.read") })))
		},
		"issue a child": func(r *registry.Registry, m made) error {
			return second(r.IssueCredential(ctx, call, keyOf(func(s *spec) { s.Principal, s.Parent = "agent", m.parent })))
		},
		"import": func(r *registry.Registry, m made) error {
			return second(r.ImportCredentials(ctx, call, registry.ImportRequest{Rows: []registry.ImportRow{row("alice", "s1"), row("shop", "s2")}}))
		},
		"update": func(r *registry.Registry, m made) error {
			return second(r.UpdateCredential(ctx, call, registry.UpdateCredentialRequest{ID: m.key, Fields: []string{"scopes", "ttl"}, Spec: spec{TTL: day}}))
		},
		"rotate": func(r *registry.Registry, m made) error {
			return second(r.RotateCredential(ctx, call, registry.RotateRequest{ID: m.parent}))
		},
		"renew": func(r *registry.Registry, m made) error { return second(r.RenewCredential(ctx, call, m.key)) },
		"disable": func(r *registry.Registry, m made) error {
			return second(r.DisableCredential(ctx, call, registry.EndRequest{ID: m.key}))
		},
		"revoke": func(r *registry.Registry, m made) error {
			_, _, _, err := r.RevokeCredential(ctx, call, registry.EndRequest{ID: m.parent})
			return err
		},
		"batch": func(r *registry.Registry, m made) error {
			return second(r.BatchRevokeCredentials(ctx, call, registry.BatchRevokeRequest{Tenant: "acme"}))
		},
		"batch of a principal": func(r *registry.Registry, m made) error {
			return second(r.BatchRevokeCredentials(ctx, call, registry.BatchRevokeRequest{Tenant: "acme", Principal: "shop"}))
		},
		"create principal": func(r *registry.Registry, m made) error {
			return second(r.CreatePrincipal(ctx, call, registry.CreatePrincipalRequest{PrincipalSpec: person{Tenant: "acme", ID: "new", Kind: policy.KindAgent, Owner: "agent"}}))
		},
		"move principal": func(r *registry.Registry, m made) error {
			return second(r.UpdatePrincipal(ctx, call, registry.UpdatePrincipalRequest{Fields: []string{"owner_id"}, Spec: person{Tenant: "acme", ID: "sub", Owner: "shop"}}))
		},
		"delete principal": func(r *registry.Registry, m made) error {
			return second(r.DeletePrincipal(ctx, call, registry.DeletePrincipalRequest{Tenant: "acme", ID: "shop"}))
		},
		"create agent": func(r *registry.Registry, m made) error {
			return second(r.CreateAgent(ctx, call, botOf("new", func(s *bot) {
				s.Owner, s.SPIFFEIDs, s.Certificates, s.JWKS = "agent", []string{"spiffe://example.org/new"}, []string{print1}, keySet(edKey)
			})))
		},
		"update agent": func(r *registry.Registry, m made) error {
			return second(r.UpdateAgent(ctx, call, registry.UpdateAgentRequest{Fields: []string{"spiffe_ids", "tools"}, Spec: bot{
				PrincipalSpec: person{Tenant: "acme", ID: "workload"}, SPIFFEIDs: []string{"spiffe://example.org/other"}, Tools: []string{"x"},
			}}))
		},
		"disable agent": func(r *registry.Registry, m made) error { return second(r.DisableAgent(ctx, call, named("agent"))) },
		"decommission": func(r *registry.Registry, m made) error {
			return second(r.DecommissionAgent(ctx, call, named("workload")))
		},
		"import users": func(r *registry.Registry, m made) error {
			return second(r.ImportUsers(ctx, call, registry.ImportUsersRequest{Rows: []registry.UserRow{{PrincipalSpec: person{Tenant: "acme", ID: "u"}}}}))
		},
		"set password": func(r *registry.Registry, m made) error {
			return second(r.SetPassword(ctx, call, registry.SetPasswordRequest{Tenant: "acme", ID: "alice", Password: policy.NewSecret("another horse")}))
		},
		"create tenant": func(r *registry.Registry, m made) error {
			return second(r.CreateTenant(ctx, call, registry.TenantSpec{ID: "new"}))
		},
		"update tenant": func(r *registry.Registry, m made) error {
			return second(r.UpdateTenant(ctx, call, registry.UpdateTenantRequest{Fields: []string{"labels"}, Spec: registry.TenantSpec{ID: "acme"}}))
		},
		"delete tenant": func(r *registry.Registry, m made) error { return second(r.DeleteTenant(ctx, call, "umbrella", "")) },
		"create session": func(r *registry.Registry, m made) error {
			return second(r.CreateSession(ctx, call, visit{Tenant: "acme", Principal: "alice"}))
		},
		"login": func(r *registry.Registry, m made) error {
			return second(r.Login(ctx, registry.Call{}, visit{Tenant: "acme", Principal: "alice"}, policy.NewSecret("correct horse")))
		},
		"rotate session": func(r *registry.Registry, m made) error {
			return second(r.RotateSession(ctx, call, registry.RotateSessionRequest{ID: m.session}))
		},
		"delete session": func(r *registry.Registry, m made) error { _, err := r.DeleteSession(ctx, call, m.rotated); return err },
		"delete sessions": func(r *registry.Registry, m made) error {
			return second(r.DeleteSessionsOf(ctx, call, "acme", "alice"))
		},
		"add denial": func(r *registry.Registry, m made) error {
			return second(r.AddDenial(ctx, call, store.Denial{Tenant: "acme", JTI: "y"}))
		},
		"remove denial": func(r *registry.Registry, m made) error { _, err := r.RemoveDenial(ctx, call, m.line); return err },
		"bootstrap":     func(r *registry.Registry, m made) error { return second(r.Bootstrap(ctx, false)) },
		"maintain": func(r *registry.Registry, m made) error {
			done, err := r.Maintain(ctx)
			if err == nil && done.Disabled == 0 {
				return errors.New("nothing was disabled")
			}
			return err
		},
	}
	for name, do := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.principal(person{Tenant: "acme", ID: "agent", Kind: policy.KindAgent, Owner: "shop"})
			w.principal(person{Tenant: "acme", ID: "sub", Kind: policy.KindAgent, Owner: "agent"})
			w.agent("workload", func(s *bot) { s.SPIFFEIDs = []string{spiffe} })
			w.agent("below", func(s *bot) { s.Owner = "workload" })
			w.key(func(s *spec) { s.Principal = "below" })
			w.approvals("below", store.ApprovalApproved)
			var m made
			m.parent, m.key = w.key().ID, w.key(func(s *spec) { s.Period = day; s.TTL = 80 * day }).ID
			m.agentKey = w.key(func(s *spec) { s.Principal, s.Parent = "sub", m.parent }).ID
			w.setPassword("alice", "correct horse")
			m.session, m.rotated = w.session().ID, w.session().ID
			w.ok(second(w.RotateSession(ctx, root(), registry.RotateSessionRequest{ID: m.rotated})))
			line, _, err := w.AddDenial(ctx, root(), store.Denial{JTI: "x"})
			w.ok(err)
			m.line = line.ID
			w.ok(second(w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{Fields: []string{"disabled"}, Spec: registry.TenantSpec{ID: "umbrella", Disabled: true}})))
			cfg := registry.Config{}
			if name == "maintain" {
				w.now = w.now.Add(3 * day)
				cfg.UnusedFor = 2 * day
			}
			lossy := &flaky{Store: w.store.Store}
			r := registry.New(cfg, lossy, registry.Deps{Now: func() time.Time { return w.now }, Peppers: w.peppers, Passwords: w.passwords})

			before, steps := w.dump(), 0
			for {
				lossy.n = steps
				err := do(r, m)
				if err == nil {
					break
				}
				if !errors.Is(err, errLost) || registry.ReasonOf(err) != registry.StoreUnavailable && name != "maintain" {
					t.Fatalf("step %d: %v", steps, err)
				}
				if w.dump() != before {
					t.Fatalf("step %d: a part of it stays", steps)
				}
				if steps++; steps > 1000 {
					t.Fatal("it never ends")
				}
			}
			if w.dump() == before || steps < 2 {
				t.Errorf("nothing was done in %d steps", steps)
			}
		})
	}
}

// A random source that fails or repeats itself makes nothing.
func TestBadRandom(t *testing.T) {
	w := newWorld(t)
	before := w.dump()
	for name, source := range map[string]func() registry.Deps{
		"fails":   func() registry.Deps { return registry.Deps{Random: iotest.ErrReader(errors.New("no entropy"))} },
		"repeats": func() registry.Deps { return registry.Deps{Random: repeating(0)} },
		"is high": func() registry.Deps { return registry.Deps{Random: repeating(255)} },
		"is over": func() registry.Deps { return registry.Deps{Random: bytes.NewReader(make([]byte, 10))} },
	} {
		deps := source()
		deps.Peppers = w.peppers
		r := registry.New(registry.Config{}, w.store, deps)
		_, _, err := r.IssueCredential(ctx, root(), keyOf(func(s *spec) { s.TTL = 24 * time.Hour; s.NotBefore = time.Time{} }))
		if registry.ReasonOf(err) != registry.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.dump() != before {
		t.Error("something was made")
	}
	// Ids that are taken are not given again.
	r := registry.New(registry.Config{}, w.store, registry.Deps{Random: repeating(7)})
	w.ok(second(r.AddDenial(ctx, root(), store.Denial{JTI: "a"})))
	_, _, err := r.AddDenial(ctx, root(), store.Denial{JTI: "b"})
	w.refused(err, registry.Internal, "")
	none := registry.New(registry.Config{}, w.store, registry.Deps{Random: repeating(255)})
	_, _, err = none.AddDenial(ctx, root(), store.Denial{JTI: "b"})
	w.refused(err, registry.Internal, "")
}

type repeating byte

func (r repeating) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

// What fills more than one page of the store is found as a whole.
func TestMoreThanAPage(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.UnusedFor = day })
	for part := range 3 {
		var rows []registry.ImportRow
		for i := range 500 {
			rows = append(rows, row("shop", fmt.Sprintf("foreign-%d-%d", part, i)))
		}
		w.ok(second(w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: rows})))
	}
	w.now = w.now.Add(2 * day)
	done, err := w.Maintain(ctx)
	w.ok(err)
	few, next, err := w.ListCredentials(ctx, root().Actor, registry.CredentialQuery{Page: registry.Page{Size: 10}, States: []registry.State{registry.Revoked}})
	w.ok(err)
	if done.Disabled != 1500 || len(few) != 0 || next != "" {
		t.Errorf("%+v, %d %q", done, len(few), next)
	}
	call := root()
	call.RequestID = "all"
	for _, want := range []int{1500, 1000} { // what is repeated is cut
		ids, _, err := w.BatchRevokeCredentials(ctx, call, registry.BatchRevokeRequest{Tenant: "acme", Principal: "shop"})
		w.ok(err)
		if len(ids) != want {
			t.Errorf("%d were revoked", len(ids))
		}
	}
	n, _, err := w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "shop"})
	w.ok(err)
	if n != 1501 {
		t.Errorf("%d records went", n)
	}
}
