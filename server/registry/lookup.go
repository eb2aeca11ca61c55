package registry

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// What an operation reads goes through here, so that nothing of another tenant's is
// ever looked at further.

// credential reads a credential that the actor sees.
func (o *operation) credential(id, etag string) (*store.Credential, error) {
	c, err := readCredential(o.tx, o.actor, id)
	if err != nil {
		o.tried(store.KindCredential, id, err)
		return nil, err
	}
	o.target(store.KindCredential, c.ID, c.Tenant)
	return c, checkEtag(etag, c.Version)
}

// tried notes for the audit log what an actor reached for that is another tenant's.
// That it is says that the id is well formed.
func (o *operation) tried(kind store.Kind, id string, err error) {
	if e := asError(err); e.denied {
		o.entry.Target = string(kind) + "/" + id
	}
}

func readCredential(from store.Reader, a *Actor, id string) (*store.Credential, error) {
	return visible[store.Credential](from, a, "credential", id, seal.IsID(id), func(c *store.Credential) string { return c.Tenant })
}

// visible reads a document that the actor sees. An id that is not well formed is
// not looked for.
func visible[T any, P store.DocumentOf[T]](from store.Reader, a *Actor, what, id string, formed bool, tenant func(*T) string) (*T, error) {
	if !formed {
		return nil, notFound(what)
	}
	d, err := store.Get[T, P](from, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, notFound(what)
	case err != nil:
		return nil, err
	case !a.sees(tenant(d)):
		return nil, foreign(what)
	}
	return d, nil
}

// principal reads a principal that the actor sees.
func (o *operation) principal(tenant, id, etag string) (*store.Principal, error) {
	p, err := readPrincipal(o.tx, o.actor, tenant, id)
	if err != nil {
		o.tried(store.KindPrincipal, store.PrincipalKey(tenant, id), err)
		return nil, err
	}
	o.target(store.KindPrincipal, p.Key(), p.Tenant)
	return p, checkEtag(etag, p.Version)
}

func readPrincipal(from store.Reader, a *Actor, tenant, id string) (*store.Principal, error) {
	formed := isPrincipalID(id) && (tenant == "" || isTenantID(tenant))
	if formed && !a.sees(tenant) {
		return nil, foreign("principal") // it may be there or not
	}
	return visible[store.Principal](from, a, "principal", store.PrincipalKey(tenant, id), formed,
		func(p *store.Principal) string { return p.Tenant })
}

// tenant reads a tenant that the actor sees.
func (o *operation) tenant(id, etag string) (*store.Tenant, error) {
	t, err := readTenant(o.tx, o.actor, id)
	if err != nil {
		o.tried(store.KindTenant, id, err)
		return nil, err
	}
	o.target(store.KindTenant, t.ID, t.ID)
	return t, checkEtag(etag, t.Version)
}

func readTenant(from store.Reader, a *Actor, id string) (*store.Tenant, error) {
	formed := isTenantID(id)
	if formed && !a.sees(id) {
		return nil, foreign("tenant")
	}
	return visible[store.Tenant](from, a, "tenant", id, formed, func(t *store.Tenant) string { return t.ID })
}

// rules returns what a tenant demands, where it demands nothing what the
// installation does. The tenant may be disabled.
func (o *operation) rules(tenant string) (store.Rules, error) {
	var rules store.Rules
	if tenant != "" {
		t, err := readTenant(o.tx, o.actor, tenant)
		if err != nil {
			return rules, err
		}
		rules = t.Rules
	}
	return o.cfg.fill(rules), nil
}

// fill fills in what a tenant leaves to the installation.
func (c Config) fill(rules store.Rules) store.Rules {
	otherwise(&rules.MaxTTL, store.Duration(c.MaxTTL))
	otherwise(&rules.MaxPATs, c.MaxPATs)
	otherwise(&rules.UnusedFor, store.Duration(c.UnusedFor))
	otherwise(&rules.SessionIdle, store.Duration(c.SessionIdle))
	otherwise(&rules.SessionMax, store.Duration(c.SessionMax))
	return rules
}

func otherwise[T comparable](v *T, instead T) {
	var zero T
	if *v == zero {
		*v = instead
	}
}

// receiver reads the principal that is to get a credential or a session: it, its
// tenant and all that own it must be there and be on.
func (o *operation) receiver(tenant, id string) (*store.Principal, store.Rules, error) {
	var rules store.Rules
	p, err := readPrincipal(o.tx, o.actor, tenant, id)
	if err != nil {
		return nil, rules, err
	}
	if tenant != "" {
		t, err := readTenant(o.tx, o.actor, tenant)
		if err != nil {
			return nil, rules, err
		}
		if t.Disabled != nil {
			return nil, rules, fail(WrongState, "tenant", "the tenant is disabled")
		}
		rules = t.Rules
	}
	if p.Decommissioned() {
		return nil, rules, fail(WrongState, "principal_id", "the agent was decommissioned, which is for good")
	}
	if p.Disabled != nil {
		return nil, rules, fail(WrongState, "principal_id", "the principal is disabled")
	}
	owners, err := o.owners(p)
	if err != nil {
		return nil, rules, err
	}
	if slices.ContainsFunc(owners, func(p *store.Principal) bool { return p.Disabled != nil }) {
		return nil, rules, fail(WrongState, "principal_id", "a principal that owns it is disabled")
	}
	return p, o.cfg.fill(rules), nil
}

// maxDepth is how long a line of owners can be.
const maxDepth = 16

// owners returns the principals with which one falls, the nearest first.
func (o *operation) owners(p *store.Principal) ([]*store.Principal, error) {
	var line []*store.Principal
	for p.Owner != "" {
		if len(line) == maxDepth {
			return nil, fail(WrongState, "owner_id", "the line of owners is longer than %d", maxDepth)
		}
		owner, err := store.Get[store.Principal](o.tx, store.PrincipalKey(p.Tenant, p.Owner))
		if errors.Is(err, store.ErrNotFound) {
			return nil, fail(WrongState, "owner_id", "the owner of the principal is gone")
		}
		if err != nil {
			return nil, err
		}
		line, p = append(line, owner), owner
	}
	return line, nil
}

// family is a principal with all that it owns, and their credentials.
type family struct {
	principals  []string // keys, the owner first
	credentials []*store.Credential
	// children are the credentials that have a parent, by its id.
	children map[string][]*store.Credential
}

// below returns the family of a principal. What falls with one of its credentials
// is in there, because a child belongs to the same principal or to one that it
// owns, see checkParent.
func (o *operation) below(key string) (*family, error) {
	if f := o.families[key]; f != nil {
		return f, nil
	}
	f := &family{principals: []string{key}, children: map[string][]*store.Credential{}}
	seen := map[string]bool{key: true}
	for i := 0; i < len(f.principals); i++ {
		owner := f.principals[i]
		err := each[store.Principal](o.tx, store.Query{Owner: owner}, func(p *store.Principal) error {
			if !seen[p.Key()] {
				seen[p.Key()] = true
				f.principals = append(f.principals, p.Key())
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		err = each[store.Credential](o.tx, store.Query{Owner: owner}, func(c *store.Credential) error {
			f.credentials = append(f.credentials, c)
			if c.Parent != "" {
				f.children[c.Parent] = append(f.children[c.Parent], c)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if o.families == nil {
		o.families = map[string]*family{}
	}
	o.families[key] = f
	return f, nil
}

// children returns the credentials that fall with one, theirs included.
func (o *operation) children(c *store.Credential) ([]*store.Credential, error) {
	f, err := o.below(store.PrincipalKey(c.Tenant, c.Principal))
	if err != nil {
		return nil, err
	}
	falls := map[string]bool{c.ID: true}
	all := slices.Clone(f.children[c.ID])
	for i := 0; i < len(all); i++ { // it grows
		if id := all[i].ID; !falls[id] {
			falls[id] = true
			all = append(all, f.children[id]...)
		}
	}
	return all, nil
}

// StateOf returns where a credential is in its life at a time. That its principal or
// tenant is disabled does not show in it.
func StateOf(c *store.Credential, now time.Time) State {
	switch {
	case c.Revoked != nil:
		return Revoked
	case c.Rotated != nil && !now.Before(c.Rotated.At):
		return Rotated
	case !c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt):
		return Expired
	case c.Disabled != nil:
		return Disabled
	case now.Before(c.NotBefore):
		return Pending
	case c.Rotated != nil:
		return Rotating
	}
	return Active
}

// mustBe fails unless a credential is in one of some states.
func mustBe(c *store.Credential, now time.Time, states ...State) error {
	state := StateOf(c, now)
	if !slices.Contains(states, state) {
		return fail(WrongState, "", "the credential is %s", strings.ToLower(string(state))).with("state", string(state))
	}
	return nil
}
