package login

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
)

// Registry is what logging in and out needs of a registry.Registry.
type Registry interface {
	Login(ctx context.Context, call registry.Call, spec registry.SessionSpec, password policy.Secret) (*registry.NewSession, registry.Change, error)
	DeleteSession(ctx context.Context, call registry.Call, id string) (registry.Change, error)
}

// AccountsOf returns the accounts of a registry. seen waits until this replica knows
// of a change (mirror.WaitFor), so that whoever has logged in can use the session at
// once; other replicas know within a second. It may be nil.
func AccountsOf(r Registry, seen func(ctx context.Context, change int64) error) Accounts {
	if seen == nil {
		seen = func(context.Context, int64) error { return nil }
	}
	return &accounts{r, seen}
}

type accounts struct {
	registry Registry
	seen     func(ctx context.Context, change int64) error
}

// Login implements Accounts. Nobody is the actor until the password is proven: what was
// typed as a name may be a password.
func (a *accounts) Login(ctx context.Context, client netip.Addr, tenant, user string, password policy.Secret) (Session, error) {
	s, change, err := a.registry.Login(ctx, registry.Call{Client: client}, registry.SessionSpec{Tenant: tenant, Principal: user}, password)
	if err != nil {
		return Session{}, failure(err)
	}
	// The session exists, whether or not this replica has seen it yet.
	_ = a.seen(ctx, change.Number)
	return Session{ID: s.ID, Secret: s.Secret, Tenant: s.Tenant, User: s.Principal, ExpiresAt: s.ExpiresAt}, nil
}

// Logout implements Accounts.
func (a *accounts) Logout(ctx context.Context, p *policy.Principal) error {
	call := registry.Call{Actor: registry.Actor{Tenant: p.Tenant, ID: p.ID, Credential: p.CredentialID}}
	change, err := a.registry.DeleteSession(ctx, call, p.CredentialID)
	switch {
	case reason(err) == registry.NotFound:
		return nil
	case err != nil:
		return fmt.Errorf("ending a session: %w", err)
	}
	_ = a.seen(ctx, change.Number)
	return nil
}

// failure keeps a no apart from "could not find out". A name that cannot be one is a
// name that does not exist.
func failure(err error) error {
	switch reason(err) {
	case registry.LoginFailed, registry.InvalidField, registry.NotFound:
		return ErrFailed
	}
	return fmt.Errorf("logging in: %w", err)
}

func reason(err error) registry.Reason {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}
