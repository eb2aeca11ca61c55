package registry

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// PrincipalSpec is what can be said of a principal: all of it when it is created,
// the fields of PrincipalFields when it is updated.
type PrincipalSpec struct {
	Tenant, ID string
	Kind       policy.Kind
	Name       string
	// Owner is the id of the principal of the same tenant with which it falls (K-16).
	Owner    string
	Rights   Rights
	Metadata map[string]any
	Disabled bool
	// DisabledReason says why, with Disabled.
	DisabledReason string
}

// PrincipalFields are the fields that UpdatePrincipal changes.
var PrincipalFields = []string{
	"display_name", "owner_id", "roles", "scopes", "permissions", "metadata",
	"disabled", "disabled_reason",
}

// CreatePrincipalRequest asks for a principal.
type CreatePrincipalRequest struct {
	PrincipalSpec
	AllowWildcard bool
}

// UpdatePrincipalRequest changes the principal that Spec.Tenant and Spec.ID name.
type UpdatePrincipalRequest struct {
	Etag string
	// Fields are some of PrincipalFields.
	Fields        []string
	Spec          PrincipalSpec
	AllowWildcard bool
}

var kinds = []policy.Kind{policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice}

// CreatePrincipal makes a principal.
func (r *Registry) CreatePrincipal(ctx context.Context, call Call, req CreatePrincipalRequest) (*store.Principal, Change, error) {
	return r.onPrincipal(ctx, call, action{"principal.create", same}, req, func(o *operation) (*store.Principal, error) {
		p, err := o.newPrincipal(&req.PrincipalSpec, req.AllowWildcard)
		if err != nil {
			return nil, err
		}
		return p, o.put(p, "the id")
	})
}

// newPrincipal makes a principal of a spec, and reports every fault at once.
func (o *operation) newPrincipal(s *PrincipalSpec, wildcard bool) (*store.Principal, error) {
	var f faults
	if s.Tenant != "" {
		t, err := readTenant(o.tx, o.actor, s.Tenant)
		if err != nil {
			return nil, f.also(err, "tenant")
		}
		if t.Disabled != nil {
			f.add(WrongState, "tenant", "the tenant is disabled")
		}
	} else if !o.actor.sees("") {
		return nil, foreign("tenant")
	}
	f.principalID("id", s.ID)
	if s.Tenant == "" && s.ID == system {
		f.field("id", "is the name under which Postern itself acts")
	}
	if !slices.Contains(kinds, s.Kind) {
		f.field("kind", "is user, service, agent or device")
	}
	p := &store.Principal{Tenant: s.Tenant, ID: s.ID, Kind: s.Kind, CreatedAt: o.now}
	o.target(store.KindPrincipal, p.Key(), p.Tenant)
	o.detail("kind", string(s.Kind))
	if err := o.fill(&f, p, s, wildcard); err != nil {
		return nil, err
	}
	if len(f.list) == 0 {
		if there, err := readPrincipal(o.tx, o.actor, s.Tenant, s.ID); err == nil {
			if there.Decommissioned() {
				return nil, fail(AlreadyExists, "id", "an agent had this id and was decommissioned: such an id is never used again")
			}
			return nil, fail(AlreadyExists, "id", "there is a principal with this id")
		} else if ReasonOf(err) != NotFound {
			return nil, err
		}
	}
	return p, f.err()
}

// fill writes into a principal what a spec says of it.
func (o *operation) fill(f *faults, p *store.Principal, s *PrincipalSpec, wildcard bool) error {
	before := rightsOf(p)
	f.name("display_name", s.Name, maxName)
	if len(s.Metadata) > 0 {
		f.metadata("metadata", s.Metadata)
	}
	if s.DisabledReason = seal.Scrub(s.DisabledReason); s.DisabledReason != "" && !s.Disabled {
		f.field("disabled_reason", "is for a principal that is disabled")
	}
	f.text("disabled_reason", s.DisabledReason, maxReason)
	rights := f.rights(s.Rights)
	p.Roles, p.Scopes, p.Permissions = rights.Roles, rights.Scopes, rights.Permissions
	if was := p.Disabled; was != nil && (!s.Disabled || s.DisabledReason != was.Reason) && !o.actor.mayUndo(was) {
		f.add(PermissionDenied, "disabled", turnedOff)
	}
	p.Name, p.Metadata, p.UpdatedAt = s.Name, s.Metadata, o.now
	p.Disabled = o.switched(p.Disabled, s.Disabled, s.DisabledReason)
	f.installationRoles(p.Tenant, rights)
	f.wildcards(o.actor, wildcard, before, rights)
	f.grants(o.actor, reach{Rights: before}, reach{Rights: rights})
	return o.setOwner(f, p, s.Owner)
}

// switched is the next state of what can be turned off. What is off stays off since
// when it was, unless there is another reason.
func (o *operation) switched(was *store.Ending, off bool, reason string) *store.Ending {
	switch {
	case !off:
		return nil
	case was != nil && was.Reason == reason:
		return was
	}
	return o.ending(reason)
}

// setOwner changes with whom a principal falls.
func (o *operation) setOwner(f *faults, p *store.Principal, owner string) error {
	if owner == p.Owner {
		return nil
	}
	moved, was := p.Owner != "", p.Owner
	p.Owner = owner
	if owner == p.ID {
		f.field("owner_id", "is the principal itself")
		return nil
	}
	if owner != "" && !isPrincipalID(owner) {
		f.field("owner_id", "is no id of a principal")
		return nil
	}
	line, err := o.owners(p)
	if ReasonOf(err) == WrongState {
		f.field("owner_id", "there is no such principal in the tenant, or the line of owners is longer than %d", maxDepth)
		return nil
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(line, func(other *store.Principal) bool { return other.ID == p.ID }) {
		f.field("owner_id", "is owned by the principal itself")
		return nil
	}
	if slices.ContainsFunc(line, (*store.Principal).Decommissioned) {
		f.add(WrongState, "owner_id", "was decommissioned, or falls with an agent that was")
		return nil
	}
	if p.Kind == policy.KindAgent && len(line) > 0 && line[0].Kind == policy.KindDevice {
		f.field("owner_id", "is a device; agents are of users, services and other agents")
		return nil
	}
	if !moved {
		return nil
	}
	if err := o.escapes(f, p, was); err != nil {
		return err
	}
	return o.leaves(f, p, line, was)
}

// escapes reports a principal that is off because the installation turned off one of its
// owners, whom a tenant wants to take it from.
func (o *operation) escapes(f *faults, p *store.Principal, was string) error {
	before := *p
	before.Owner = was
	line, err := o.owners(&before)
	if ReasonOf(err) == WrongState {
		return nil // the owner is gone
	}
	if slices.ContainsFunc(line, func(owner *store.Principal) bool { return owner.Disabled != nil && !o.actor.mayUndo(owner.Disabled) }) {
		f.add(PermissionDenied, "owner_id", turnedOff)
	}
	return err
}

// leaves reports credentials that fall with one of an owner whom a principal is
// about to leave: nobody would find them any more when that one is revoked.
func (o *operation) leaves(f *faults, p *store.Principal, line []*store.Principal, was string) error {
	family, err := o.below(p.Key())
	if err != nil {
		return err
	}
	near := map[string]bool{}
	for _, key := range family.principals {
		near[key] = true
	}
	for _, owner := range line {
		near[owner.Key()] = true
	}
	for _, c := range family.credentials {
		if c.Parent == "" || c.Revoked != nil {
			continue
		}
		parent, err := store.Get[store.Credential](o.tx, c.Parent)
		if err != nil {
			return err
		}
		if !near[store.PrincipalKey(parent.Tenant, parent.Principal)] {
			f.add(WrongState, "owner_id", "the credential %s falls with one of %s: revoke it first", c.ID, was)
			return nil
		}
	}
	return nil
}

// UpdatePrincipal changes fields of a principal.
func (r *Registry) UpdatePrincipal(ctx context.Context, call Call, req UpdatePrincipalRequest) (*store.Principal, Change, error) {
	return r.onPrincipal(ctx, call, action{"principal.update", same}, req, func(o *operation) (*store.Principal, error) {
		p, err := o.principal(req.Spec.Tenant, req.Spec.ID, req.Etag)
		if err != nil {
			return nil, err
		}
		if err := living(p); err != nil {
			return nil, err
		}
		var f faults
		f.fields(req.Fields, PrincipalFields)
		s := specOfPrincipal(p)
		for _, field := range req.Fields {
			s.set(&req.Spec, field)
		}
		if !s.Disabled && !slices.Contains(req.Fields, "disabled_reason") {
			s.DisabledReason = ""
		}
		o.detail("fields", strings.Join(req.Fields, ","))
		if err := o.fill(&f, p, &s, req.AllowWildcard); err != nil {
			return nil, err
		}
		if err := f.err(); err != nil {
			return nil, err
		}
		return p, o.put(p, "the id")
	})
}

// specOfPrincipal says of a principal what it is.
func specOfPrincipal(p *store.Principal) PrincipalSpec {
	s := PrincipalSpec{
		Tenant: p.Tenant, ID: p.ID, Kind: p.Kind, Name: p.Name, Owner: p.Owner,
		Rights: rightsOf(p), Metadata: maps.Clone(p.Metadata), Disabled: p.Disabled != nil,
	}
	if p.Disabled != nil {
		s.DisabledReason = p.Disabled.Reason
	}
	return s
}

// set takes over one field of the protocol.
func (s *PrincipalSpec) set(from *PrincipalSpec, field string) {
	switch field {
	case "display_name":
		s.Name = from.Name
	case "owner_id":
		s.Owner = from.Owner
	case "roles", "scopes", "permissions":
		s.Rights.set(&from.Rights, field)
	case "metadata":
		s.Metadata = from.Metadata
	case "disabled":
		s.Disabled = from.Disabled
	case "disabled_reason":
		s.DisabledReason = from.DisabledReason
	}
}

// onPrincipal runs an operation that makes or changes one principal and returns it.
func (r *Registry) onPrincipal(ctx context.Context, call Call, act action, req any, do func(*operation) (*store.Principal, error)) (*store.Principal, Change, error) {
	var p *store.Principal
	change, err := r.change(ctx, call, act, req, func(o *operation) (err error) {
		if p, err = do(o); err == nil {
			o.made = p.Key()
		}
		return err
	}, func(o *operation, made string) (err error) {
		tenant, id := store.SplitPrincipalKey(made)
		p, err = o.principal(tenant, id, "")
		return err
	})
	if err != nil {
		return nil, change, err
	}
	return p, change, nil
}

// GetPrincipal returns a principal. Password is its hash: not for callers.
func (r *Registry) GetPrincipal(ctx context.Context, actor Actor, tenant, id string) (*store.Principal, error) {
	var p *store.Principal
	err := r.store.View(ctx, func(from store.Reader) (err error) {
		p, err = readPrincipal(from, &actor, tenant, id)
		return err
	})
	if err != nil {
		return nil, asError(err)
	}
	return p, nil
}

// PrincipalQuery says which principals to list. Fields that are set must all match.
type PrincipalQuery struct {
	Page
	Tenant string
	Kinds  []policy.Kind
	// Owner is the id of the principal of Tenant that owns them.
	Owner string
}

// ListPrincipals lists principals in the order of tenant and id.
func (r *Registry) ListPrincipals(ctx context.Context, actor Actor, q PrincipalQuery) ([]*store.Principal, string, error) {
	var f faults
	for _, k := range q.Kinds {
		if !slices.Contains(kinds, k) {
			f.field("kinds", "are user, service, agent and device")
		}
	}
	tenant, err := actor.visible(q.Tenant)
	if err != nil {
		return nil, "", err
	}
	q.Tenant = tenant
	owner := f.owner("owner_id", q.Tenant, q.Owner)
	if err := f.err(); err != nil {
		return nil, "", err
	}
	page := q.Page
	q.Page = Page{}
	c, err := r.cursor(page, q)
	if err != nil {
		return nil, "", err
	}
	return list(ctx, r, store.Query{Tenant: tenant, Owner: owner}, c, func(p *store.Principal) bool {
		return len(q.Kinds) == 0 || slices.Contains(q.Kinds, p.Kind)
	})
}
