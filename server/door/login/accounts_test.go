package login_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door/login"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

var _ login.Registry = (*registry.Registry)(nil)

// book plays a registry that answers with err.
type book struct {
	err  error
	call registry.Call
	spec registry.SessionSpec
	id   string
}

func (b *book) Login(_ context.Context, call registry.Call, spec registry.SessionSpec, _ policy.Secret) (*registry.NewSession, registry.Change, error) {
	b.call, b.spec = call, spec
	if b.err != nil {
		return nil, registry.Change{}, b.err
	}
	s := &store.Session{ID: "s1", Tenant: spec.Tenant, Principal: spec.Principal, ExpiresAt: noon}
	return &registry.NewSession{Session: s, Secret: policy.NewSecret("v")}, registry.Change{Number: 7}, nil
}

func (b *book) DeleteSession(_ context.Context, call registry.Call, id string) (registry.Change, error) {
	b.call, b.id = call, id
	return registry.Change{Number: 8}, b.err
}

// S-01: who logs in is nobody before, and this replica knows of the session before the
// answer goes out.
func TestAccountsOf(t *testing.T) {
	t.Parallel()
	var waited []int64
	b := &book{}
	a := login.AccountsOf(b, func(_ context.Context, change int64) error {
		waited = append(waited, change)
		return errors.New("too slow")
	})
	s, err := a.Login(t.Context(), netip.Addr{}, "acme", "alice", policy.NewSecret("pw"))
	if err != nil || s.ID != "s1" || s.Secret.Reveal() != "v" || s.Tenant != "acme" || s.User != "alice" || !s.ExpiresAt.Equal(noon) {
		t.Errorf("%+v, %v", s, err)
	}
	if b.call.Actor.ID != "" || b.spec.Tenant != "acme" || b.spec.Principal != "alice" {
		t.Errorf("%+v %+v", b.call, b.spec)
	}
	if err := a.Logout(t.Context(), &policy.Principal{Tenant: "acme", ID: "alice", CredentialID: "s1"}); err != nil || b.id != "s1" || b.call.Actor.Credential != "s1" {
		t.Errorf("%v, %q, %+v", err, b.id, b.call)
	}
	if len(waited) != 2 || waited[0] != 7 || waited[1] != 8 {
		t.Errorf("waited for %v", waited)
	}
}

// A no is told from "could not find out", and only a no is ErrFailed.
func TestAccountsErrors(t *testing.T) {
	t.Parallel()
	for reason, failed := range map[registry.Reason]bool{
		registry.LoginFailed: true, registry.InvalidField: true, registry.NotFound: true,
		registry.Overloaded: false, registry.StoreUnavailable: false, registry.Internal: false, registry.NotConfigured: false, "": false,
	} {
		b := &book{err: errors.New("another")}
		if reason != "" {
			b.err = &registry.Error{Fault: registry.Fault{Reason: reason}}
		}
		a := login.AccountsOf(b, nil)
		if _, err := a.Login(t.Context(), netip.Addr{}, "", "alice", policy.NewSecret("pw")); err == nil || errors.Is(err, login.ErrFailed) != failed {
			t.Errorf("%s: %v", reason, err)
		}
		if err := a.Logout(t.Context(), &policy.Principal{}); (err == nil) != (reason == registry.NotFound) {
			t.Errorf("logout: %s: %v", reason, err)
		}
	}
}
