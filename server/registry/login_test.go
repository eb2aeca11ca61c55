package registry_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

func (w *world) setPassword(user, secret string) {
	w.t.Helper()
	w.ok(second(w.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: user, Password: policy.NewSecret(secret)})))
}

func (w *world) login(user, secret string) (*registry.NewSession, error) {
	s, _, err := w.Login(ctx, registry.Call{}, visit{Tenant: "acme", Principal: user}, policy.NewSecret(secret))
	return s, err
}

// B-06: every failure is the same error after the same work.
func TestLoginTellsNobodyWhoThereIs(t *testing.T) {
	w := newWorld(t)
	w.setPassword("alice", "correct horse")
	w.principal(person{Tenant: "acme", ID: "off", Kind: policy.KindUser})
	w.setPassword("off", "correct horse")
	w.principal(person{Tenant: "acme", ID: "bare", Kind: policy.KindUser})
	_, _, err := w.UpdatePrincipal(ctx, root(), registry.UpdatePrincipalRequest{Fields: []string{"disabled"}, Spec: person{Tenant: "acme", ID: "off", Disabled: true}})
	w.ok(err)

	s, err := w.login("alice", "correct horse")
	w.ok(err)
	if fmt.Sprint(s.AMR) != "[pwd]" || s.Principal != "alice" {
		t.Errorf("%+v", s.Session)
	}
	if e := w.audit(registry.AuditQuery{Action: "session.create"})[0]; e.Actor != "acme/alice" || e.Detail["by"] != "password" {
		t.Errorf("%+v", e)
	}
	var texts []string
	for _, try := range []struct{ user, secret string }{
		{"alice", "wrong horse"}, {"nobody", "correct horse"}, {"off", "correct horse"}, {"bare", ""}, {"shop", "x"}, {"a/../b", "x"}, {"", ""}, {strings.Repeat("x", 9999), "x"},
	} {
		before := w.passwords.verified
		_, err := w.login(try.user, try.secret)
		w.refused(err, registry.LoginFailed, "")
		if n := w.passwords.verified - before; n != 1 {
			t.Errorf("%.20s: %d hashes", try.user, n)
		}
		texts = append(texts, err.Error())
	}
	for _, text := range texts {
		if text != texts[0] {
			t.Errorf("%q and %q", text, texts[0])
		}
	}
	// The log names users whom there are; what else was typed may be a password.
	e := w.audit(registry.AuditQuery{Action: "session.login"})
	if len(e) != 8 || e[7].Target != "principal/acme/alice" || !e[7].Denied || e[6].Target != "" {
		t.Errorf("%d entries, %+v", len(e), e)
	}
}

// B-06: five wrong passwords lock a name out for fifteen minutes, whether or not
// there is such a user; nothing is hashed then.
func TestLockout(t *testing.T) {
	w := newWorld(t)
	w.setPassword("alice", "correct horse")
	for _, user := range []string{"alice", "nobody"} {
		for range 5 {
			_, err := w.login(user, "wrong")
			w.refused(err, registry.LoginFailed, "")
		}
		before := w.passwords.verified
		_, err := w.login(user, "correct horse")
		w.refused(err, registry.LoginFailed, "")
		if w.passwords.verified != before {
			t.Errorf("%s: hashed while locked out", user)
		}
	}
	w.now = w.now.Add(15*time.Minute - 1000)
	_, err := w.login("alice", "correct horse")
	w.refused(err, registry.LoginFailed, "")
	w.now = w.now.Add(time.Second)
	for range 4 { // a right one forgets the wrong ones
		for range 4 {
			_, err := w.login("alice", "wrong")
			w.refused(err, registry.LoginFailed, "")
		}
		_, err := w.login("alice", "correct horse")
		w.ok(err)
	}
	// What could not be found out does not count.
	w.passwords.err = password.ErrBusy
	for range 9 {
		_, err := w.login("alice", "correct horse")
		w.refused(err, registry.Overloaded, "")
	}
	w.passwords.err = nil
	// A store that cannot be written is no wrong password.
	w.store.err = store.ErrReadOnly
	_, err = w.login("alice", "correct horse")
	w.refused(err, registry.StoreUnavailable, "")
	w.store.err = nil
	_, err = w.login("alice", "correct horse")
	w.ok(err)
}

// Many tries at once count like many in a row.
func TestLockoutInParallel(t *testing.T) {
	w := newWorld(t)
	gate := &gated{plain: w.passwords, open: make(chan struct{})}
	r := registry.New(registry.Config{}, w.store, registry.Deps{Now: func() time.Time { return w.now }, Passwords: gate})
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			_, err := r.VerifyPassword(ctx, registry.Call{}, "acme", "alice", policy.NewSecret("wrong"))
			if registry.ReasonOf(err) != registry.LoginFailed {
				t.Error(err)
			}
		})
	}
	gate.wait(5)
	close(gate.open)
	wait.Wait()
	if gate.n != 5 {
		t.Errorf("%d passwords were tried", gate.n)
	}
}

// gated verifies once it is open.
type gated struct {
	*plain
	open chan struct{}
	mu   sync.Mutex
	cond *sync.Cond
	n    int
}

func (g *gated) Verify(context.Context, string, policy.Secret) (bool, error) {
	g.mu.Lock()
	g.n++
	if g.cond != nil {
		g.cond.Broadcast()
	}
	g.mu.Unlock()
	<-g.open
	return false, nil
}

func (g *gated) wait(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cond = sync.NewCond(&g.mu)
	for g.n < n {
		g.cond.Wait()
	}
}

// A new password ends the sessions unless told, and the old one no longer works.
func TestSetPassword(t *testing.T) {
	w := newWorld(t)
	for _, bad := range []string{"short", strings.Repeat("x", 257), "with\ncontrol", "bad utf8 \xff"} {
		_, _, err := w.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: "alice", Password: policy.NewSecret(bad)})
		if e := w.refused(err, registry.InvalidField, "password"); contains(e.Error(), bad) {
			t.Error("the error shows the password")
		}
	}
	_, _, err := w.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: "shop", Password: policy.NewSecret("long enough")})
	w.refused(err, registry.InvalidField, "id")
	s := w.session()
	w.setPassword("alice", "correct horse")
	if _, err := w.GetSession(ctx, root().Actor, s.ID); registry.ReasonOf(err) != registry.NotFound {
		t.Errorf("%v", err)
	}
	kept, err := w.login("alice", "correct horse")
	w.ok(err)
	p, _, err := w.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: "alice", Password: policy.NewSecret("another horse"), KeepSessions: true})
	w.ok(err)
	if _, err := w.GetSession(ctx, root().Actor, kept.ID); err != nil || p.PasswordChangedAt != w.now {
		t.Errorf("%v", err)
	}
	_, err = w.login("alice", "correct horse")
	w.refused(err, registry.LoginFailed, "")
	p, _, err = w.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: "alice"})
	w.ok(err)
	_, err = w.login("alice", "another horse")
	w.refused(err, registry.LoginFailed, "")
	if p.Password != "" {
		t.Error("there is still a password")
	}
}

// B-07: hashes from an htpasswd file verify, and the login replaces them.
func TestImportedHashesAreUpgraded(t *testing.T) {
	w := newWorld(t)
	hasher, err := password.New(password.Config{Memory: 7 << 20, Passes: 5}, password.Deps{})
	w.ok(err)
	r := registry.New(registry.Config{}, w.store, registry.Deps{Now: func() time.Time { return w.now }, Passwords: hasher})
	// As htpasswd -B writes it, for "hunter2-hunter2".
	const bcrypt = "$2y$04$Jylz8oVNCoOcwqqF1oUqmu3XeYOA35A6mfwmD1VJaLEJkewYmWKDS"
	done, _, err := r.ImportUsers(ctx, root(), registry.ImportUsersRequest{SkipBad: true, Rows: []registry.UserRow{
		{PrincipalSpec: person{Tenant: "acme", ID: "carol"}, PasswordHash: policy.NewSecret(bcrypt)},
		{PrincipalSpec: person{Tenant: "acme", ID: "dave"}, PasswordHash: policy.NewSecret("hunter2-in-clear")},
		{PrincipalSpec: person{Tenant: "acme", ID: "erin", Kind: policy.KindService}},
		{PrincipalSpec: person{Tenant: "acme", ID: "alice"}},
		{PrincipalSpec: person{Tenant: "acme", ID: "frank"}},
	}})
	w.ok(err)
	for i, field := range []string{"", "password_hash", "kind", "id", ""} {
		if faults := done.Results[i].Faults; (field != "") != (len(faults) > 0) || field != "" && faults[0].Field != field {
			t.Errorf("row %d: %+v", i, faults)
		}
	}
	if done.Taken != 2 || contains(fmt.Sprintf("%+v", done), "hunter2") {
		t.Errorf("%+v", done)
	}
	_, err = r.VerifyPassword(ctx, registry.Call{}, "acme", "carol", policy.NewSecret("wrong"))
	w.refused(err, registry.LoginFailed, "")
	p, err := r.VerifyPassword(ctx, registry.Call{}, "acme", "carol", policy.NewSecret("hunter2-hunter2"))
	w.ok(err)
	kept, err := w.GetPrincipal(ctx, root().Actor, "acme", "carol")
	w.ok(err)
	if !strings.HasPrefix(kept.Password, "$argon2id$") || p.Password != kept.Password || p.Version != kept.Version {
		t.Errorf("kept %.12s", kept.Password)
	}
	_, err = r.VerifyPassword(ctx, registry.Call{}, "acme", "carol", policy.NewSecret("hunter2-hunter2"))
	w.ok(err)
}

// meddling does something while a hash is computed.
type meddling struct {
	*plain
	meanwhile func()
}

func (m *meddling) Hash(ctx context.Context, secret policy.Secret) (string, error) {
	if do := m.meanwhile; do != nil {
		m.meanwhile = nil
		do()
	}
	return m.plain.Hash(ctx, secret)
}

// B-07: a hash is not replaced over a password that was changed meanwhile, and who
// had the old one does not get in by it.
func TestRehashMeetsAChange(t *testing.T) {
	for name, tt := range map[string]struct {
		meanwhile func(w *world)
		want      registry.Reason
	}{
		"nothing": {func(*world) {}, ""},
		"another login": {func(w *world) {
			w.ok(second(w.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: "carol", Password: policy.NewSecret("old horse")})))
		}, ""},
		"a new password": {func(w *world) {
			w.ok(second(w.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: "carol", Password: policy.NewSecret("new horse")})))
		}, registry.LoginFailed},
		"no password": {func(w *world) {
			w.ok(second(w.SetPassword(ctx, root(), registry.SetPasswordRequest{Tenant: "acme", ID: "carol"})))
		}, registry.LoginFailed},
		"gone": {func(w *world) {
			w.ok(second(w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: "carol"})))
		}, registry.LoginFailed},
		"no hash to be had": {func(w *world) { w.passwords.err = password.ErrBusy }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			good, err := w.passwords.Hash(ctx, policy.NewSecret("old horse"))
			w.ok(err)
			_, _, err = w.ImportUsers(ctx, root(), registry.ImportUsersRequest{Rows: []registry.UserRow{{
				PrincipalSpec: person{Tenant: "acme", ID: "carol"}, PasswordHash: policy.NewSecret("old:" + strings.TrimPrefix(good, "new:")),
			}}})
			w.ok(err)
			r := registry.New(registry.Config{}, w.store, registry.Deps{
				Now: func() time.Time { return w.now }, Peppers: w.peppers,
				Passwords: &meddling{w.passwords, func() { tt.meanwhile(w) }},
			})
			_, _, err = r.Login(ctx, registry.Call{}, visit{Tenant: "acme", Principal: "carol"}, policy.NewSecret("old horse"))
			if registry.ReasonOf(err) != tt.want {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if e := w.audit(registry.AuditQuery{Action: "user.rehash"}); len(e) > 1 || len(e) == 1 && e[0].Denied {
				t.Errorf("%+v", e)
			}
		})
	}
}
