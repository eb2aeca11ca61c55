package registry

import (
	"context"
	"errors"
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// BootstrapPrincipal is the id of the principal, of the installation, that Bootstrap
// makes.
const BootstrapPrincipal = "bootstrap"

// Bootstrap makes the first API key with the role platform-admin, for a principal
// of the installation. It fails with ALREADY_EXISTS once there has been a credential
// with that role, whatever has become of it since, unless forced: who forces it has
// the store in hand anyway.
func (r *Registry) Bootstrap(ctx context.Context, force bool) (*Issued, Change, error) {
	var issued *Issued
	call := Call{Actor: Actor{ID: system}}
	change, err := r.change(ctx, call, action{"bootstrap", never}, nil, func(o *operation) error {
		if !force {
			if err := o.unclaimed(); err != nil {
				return err
			}
		}
		p, err := o.bootstrapPrincipal()
		if err != nil {
			return err
		}
		m, err := o.mint(seal.KindKey, "", store.KindCredential)
		if err != nil {
			return err
		}
		c := &store.Credential{
			ID: m.ID, Type: store.APIKey, Principal: p.ID, Name: "bootstrap", Digest: m.Digest.String(),
			Roles: []string{PlatformAdmin}, CreatedAt: o.now, UpdatedAt: o.now,
			ExpiresAt: o.now.Add(o.cfg.MaxTTL), IssuedBy: call.Actor.Name(),
		}
		issued = &Issued{Credential: o.view(c), Secret: m.Secret}
		if force {
			o.detail("forced", "true")
		}
		return o.issued(c)
	}, nil)
	if err != nil {
		return nil, change, err
	}
	return issued, change, nil
}

var errClaimed = fail(AlreadyExists, "", "there is a platform-admin already: use its key, or force a new one")

// unclaimed fails if somebody is platform-admin by a credential.
func (o *operation) unclaimed() error {
	// Nearly always it is there, and this finds it at once.
	known := store.Query{Kind: store.KindCredential, Owner: store.PrincipalKey("", BootstrapPrincipal), Limit: 1}
	if some, err := o.tx.List(known); err != nil {
		return err
	} else if len(some) > 0 {
		return errClaimed
	}
	return each[store.Credential](o.tx, store.Query{}, func(c *store.Credential) error {
		if c.Tenant != "" {
			return nil
		}
		if slices.Contains(c.Roles, PlatformAdmin) {
			return errClaimed
		}
		p, err := store.Get[store.Principal](o.tx, store.PrincipalKey(c.Tenant, c.Principal))
		switch {
		case err == nil && slices.Contains(p.Roles, PlatformAdmin):
			return errClaimed
		case errors.Is(err, store.ErrNotFound):
			return nil
		}
		return err
	})
}

// bootstrapPrincipal reads or makes the principal, and sees that it can act.
func (o *operation) bootstrapPrincipal() (*store.Principal, error) {
	p, err := store.Get[store.Principal](o.tx, store.PrincipalKey("", BootstrapPrincipal))
	if errors.Is(err, store.ErrNotFound) {
		p, err = &store.Principal{
			ID: BootstrapPrincipal, Kind: policy.KindService, Name: "Bootstrap", CreatedAt: o.now,
		}, nil
	}
	if err != nil {
		return nil, err
	}
	p.Roles, p.Disabled, p.Owner, p.UpdatedAt = []string{PlatformAdmin}, nil, "", o.now
	return p, o.put(p, "the principal "+BootstrapPrincipal)
}
