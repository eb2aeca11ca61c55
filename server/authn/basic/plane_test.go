package basic_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/basic"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// plane is the real registry over a store, and the real mirror that follows it.
type plane struct {
	*basic.Authenticator
	*registry.Registry
	*mirror.Mirror
	t      *testing.T
	store  store.Store
	hasher *password.Hasher
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t, store: memory.New(time.Now)}
	var err error
	if p.hasher, err = password.New(password.Config{}, password.Deps{Peppers: peppers(t)}); err != nil {
		t.Fatal(err)
	}
	p.Mirror = mirror.New(mirror.Config{}, p.store, mirror.Deps{})
	p.Registry = registry.New(registry.Config{}, p.store, registry.Deps{Peppers: peppers(t), Passwords: p.hasher})
	p.done(p.Load(t.Context()))
	cfg := basic.Config{InsecureAnywhere: true, Tenant: "acme"}
	cfg.SetDefaults()
	if p.Authenticator, err = basic.New(cfg, basic.Deps{
		People: p.People(), Verify: p.verify, Hasher: p.hasher,
	}); err != nil {
		t.Fatal(err)
	}
	_, _, err = p.CreateTenant(t.Context(), root(), registry.TenantSpec{ID: "acme"})
	p.done(err)
	return p
}

// verify asks the registry, whose one answer to everything that is wrong is LOGIN_FAILED.
func (p *plane) verify(ctx context.Context, t basic.Try) (bool, error) {
	_, err := p.VerifyPassword(ctx, registry.Call{}, t.Tenant, t.Name, t.Password)
	if registry.ReasonOf(err) == registry.LoginFailed {
		return false, nil
	}
	return err == nil, err
}

func root() registry.Call {
	return registry.Call{Actor: registry.Actor{ID: "root", Unlimited: true, Rights: registry.Rights{Roles: []string{registry.PlatformAdmin}}}}
}

// done lets the mirror see what was done.
func (p *plane) done(err error) {
	p.t.Helper()
	if err == nil {
		err = p.Poll(p.t.Context())
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// ask returns who somebody is, or nil, and how many hashes that took.
func (p *plane) ask(user, secret string) (*policy.Principal, uint64) {
	p.t.Helper()
	before := p.hasher.Computed()
	proof, err := p.Authenticate(p.t.Context(), credential(user, secret))
	hashes := p.hasher.Computed() - before
	var refusal *authn.Refusal
	switch {
	case err == nil:
		return proof.Principal, hashes
	case !errors.As(err, &refusal):
		p.t.Fatal(err)
	}
	return nil, hashes
}

// B-04, B-06, B-07, CACHE-12: users of the store, with their real hashes. What is
// changed there counts at the mirror's next look.
func TestPlane(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	_, _, err := p.ImportUsers(t.Context(), root(), registry.ImportUsersRequest{Rows: []registry.UserRow{{
		PrincipalSpec: registry.PrincipalSpec{Tenant: "acme", ID: "alice", Rights: registry.Rights{Roles: []string{"reader"}}},
		PasswordHash:  policy.NewSecret("$2b$05$abcdefghijklmnopqrstuu" + sum), // of 72 times "p"
	}}})
	p.done(err)
	const imported = "pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp"
	if who, n := p.ask("alice", imported); who == nil || who.ID != "alice" || who.Tenant != "acme" || who.Roles[0] != "reader" || n != 2 {
		t.Fatalf("%+v, %d hashes; want one to verify and one to keep", who, n)
	}
	p.done(nil)
	if who, n := p.ask("alice", imported); who == nil || n != 1 {
		t.Errorf("%+v, %d hashes: the record has changed", who, n)
	}
	if who, n := p.ask("alice", imported); who == nil || n != 0 {
		t.Errorf("%+v, %d hashes: it was remembered", who, n)
	}
	for _, user := range []string{"alice", "mallory"} {
		if who, n := p.ask(user, "wrong"); who != nil || n != 1 {
			t.Errorf("%s: %+v, %d hashes", user, who, n)
		}
	}

	_, _, err = p.SetPassword(t.Context(), root(), registry.SetPasswordRequest{Tenant: "acme", ID: "alice", Password: policy.NewSecret("correct horse")})
	p.done(err)
	if who, _ := p.ask("alice", imported); who != nil {
		t.Error("the password before is good")
	}
	if who, n := p.ask("alice", "correct horse"); who == nil || n != 1 {
		t.Errorf("%+v, %d hashes", who, n)
	}

	_, _, err = p.UpdatePrincipal(t.Context(), root(), registry.UpdatePrincipalRequest{Fields: []string{"disabled"}, Spec: registry.PrincipalSpec{Tenant: "acme", ID: "alice", Disabled: true}})
	p.done(err)
	if who, n := p.ask("alice", "correct horse"); who != nil || n != 1 {
		t.Errorf("%+v, %d hashes: disabled users cost what unknown ones do", who, n)
	}
}
