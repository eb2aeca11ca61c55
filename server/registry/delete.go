package registry

import (
	"context"
	"strconv"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// DeletePrincipalRequest removes a principal.
type DeletePrincipalRequest struct {
	Tenant, ID, Etag string
}

// DeletePrincipal removes a principal with its credentials, its sessions and the
// principals that it owns, and returns how many records went.
func (r *Registry) DeletePrincipal(ctx context.Context, call Call, req DeletePrincipalRequest) (int, Change, error) {
	return r.delete(ctx, call, "principal.delete", req, func(o *operation) (int, error) {
		p, err := o.principal(req.Tenant, req.ID, req.Etag)
		if err != nil {
			return 0, err
		}
		family, err := o.below(p.Key())
		if err != nil {
			return 0, err
		}
		leaving, err := o.mayDelete(family)
		if err != nil {
			return 0, err
		}
		if err := o.removeAgreements(p.Tenant, family.principals); err != nil {
			return 0, err
		}
		n := 0
		for _, owner := range family.principals {
			if err := o.removeWorkloads(owner); err != nil {
				return 0, err
			}
			for _, kind := range []store.Kind{store.KindSession, store.KindCredential} {
				if err := o.remove(store.Query{Kind: kind, Owner: owner}, &n); err != nil {
					return 0, err
				}
			}
		}
		until, err := o.longestToken(p.Tenant)
		if err != nil {
			return 0, err
		}
		for _, p := range leaving {
			if err := o.tx.Delete(store.KindPrincipal, p.Key()); err != nil {
				return 0, err
			}
			if p.Kind == policy.KindAgent { // of whom nobody will know any more that it has ended
				if err := o.denyAgent(p, "the agent was deleted", until); err != nil {
					return 0, err
				}
			}
			n++
		}
		return n, nil
	})
}

// removeWorkloads gives up what an agent was, which counts as no record of its own.
func (o *operation) removeWorkloads(owner string) error {
	return o.remove(store.Query{Kind: store.KindWorkload, Owner: owner}, new(int))
}

// mayDelete returns those of a family that go with its first, or fails if the installation
// turned one of them off and the actor is of the tenant: it could make the same one anew.
// For the same reason the records stay of agents that were decommissioned.
func (o *operation) mayDelete(f *family) (leaving []*store.Principal, err error) {
	for i, key := range f.principals {
		p, err := store.Get[store.Principal](o.tx, key)
		switch {
		case err != nil:
			return nil, err
		case p.Decommissioned() && i == 0:
			return nil, fail(WrongState, "", "the agent was decommissioned: its record stays, so that nobody gets its id again")
		case p.Decommissioned():
			continue
		case p.Disabled != nil && !o.actor.mayUndo(p.Disabled):
			return nil, deny("", turnedOff)
		}
		leaving = append(leaving, p)
	}
	return leaving, nil
}

// DeleteTenant removes a disabled tenant with all that is its own, and returns how
// many records went. Only actors of the installation can.
func (r *Registry) DeleteTenant(ctx context.Context, call Call, id, etag string) (int, Change, error) {
	return r.delete(ctx, call, "tenant.delete", []string{id, etag}, func(o *operation) (int, error) {
		t, err := o.tenant(id, etag)
		if err != nil {
			return 0, err
		}
		if o.actor.Tenant != "" {
			return 0, deny("", "only the installation deletes tenants")
		}
		if t.Disabled == nil {
			return 0, fail(WrongState, "", "the tenant is in use: disable it first")
		}
		n := 0
		for _, kind := range recordKinds {
			if err := o.remove(store.Query{Kind: kind, Tenant: t.ID}, &n); err != nil {
				return 0, err
			}
		}
		return n + 1, o.tx.Delete(store.KindTenant, t.ID)
	})
}

// recordKinds are the kinds that belong to a tenant, what falls first before what it
// falls with.
var recordKinds = []store.Kind{store.KindSession, store.KindCredential, store.KindDenial, store.KindWorkload, store.KindApproval, store.KindConsent, store.KindLimit, store.KindPrincipal}

// delete runs an operation that removes records and counts them.
func (r *Registry) delete(ctx context.Context, call Call, name string, req any, do func(*operation) (int, error)) (int, Change, error) {
	var n int
	change, err := r.change(ctx, call, action{name, same}, req, func(o *operation) (err error) {
		n, err = do(o)
		o.made = strconv.Itoa(n)
		o.detail("records", o.made)
		return err
	}, func(_ *operation, made string) (err error) {
		n, err = strconv.Atoi(made)
		return err
	})
	if err != nil {
		return 0, change, err
	}
	return n, change, nil
}

// remove deletes all records that fit a query, and counts them.
func (o *operation) remove(q store.Query, n *int) error {
	q.Limit = store.MaxPage
	for {
		some, err := o.tx.List(q)
		if err != nil {
			return err
		}
		for _, rec := range some {
			if err := o.tx.Delete(rec.Kind, rec.ID); err != nil {
				return err
			}
			*n++
		}
		if len(some) < q.Limit {
			return nil
		}
		q.After = some[len(some)-1].ID
	}
}
