package registry

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// CredentialFields are the fields that UpdateCredential changes, in the words of the
// protocol.
var CredentialFields = []string{
	"display_name", "roles", "scopes", "permissions", "constraints", "metadata",
	"not_before", "expire_time", "ttl", "renew_period", "max_expire_time",
}

// UpdateCredentialRequest changes fields of a credential.
type UpdateCredentialRequest struct {
	ID, Etag string
	// Fields are some of CredentialFields.
	Fields        []string
	Spec          CredentialSpec
	AllowWildcard bool
}

// UpdateCredential changes fields of a credential. The bounds of its life count from
// when it was issued, so that no update can move them.
func (r *Registry) UpdateCredential(ctx context.Context, call Call, req UpdateCredentialRequest) (*Credential, Change, error) {
	return r.onCredential(ctx, call, "credential.update", req, req.ID, req.Etag, func(o *operation, c *store.Credential) error {
		if err := mustBe(c, o.now, Active, Pending, Disabled, Expired); err != nil {
			return err
		}
		d := draft{spec: specOf(c), wildcard: req.AllowWildcard}
		d.fields(req.Fields, CredentialFields)
		for _, field := range req.Fields {
			d.spec.set(&req.Spec, field)
		}
		if changes(req.Fields, "renew_period") && d.spec.Period == 0 && !changes(req.Fields, "max_expire_time") {
			d.spec.MaxExpiresAt = time.Time{}
		}
		if err := o.revise(&d, c, req.Fields); err != nil {
			return err
		}
		o.detail("fields", strings.Join(req.Fields, ","))
		return o.put(c, "the id")
	})
}

// revise makes of a credential what a draft says that it should be.
func (o *operation) revise(d *draft, c *store.Credential, mask []string) error {
	p, err := readPrincipal(o.tx, o.actor, c.Tenant, c.Principal)
	if err != nil {
		return err
	}
	rules, err := o.rules(c.Tenant)
	if err != nil {
		return err
	}
	before := *c
	wanted := d.form(o)
	c.Name, c.Metadata, c.Constraints, c.UpdatedAt = wanted.Name, wanted.Metadata, wanted.Constraints, o.now
	c.Roles, c.Scopes, c.Permissions = wanted.Roles, wanted.Scopes, wanted.Permissions
	c.NotBefore, c.ExpiresAt, c.Period, c.MaxExpiresAt = wanted.NotBefore, wanted.ExpiresAt, wanted.Period, wanted.MaxExpiresAt
	if changes(mask, "not_before", "expire_time", "ttl", "renew_period", "max_expire_time") {
		d.life(c, d.spec.TTL, time.Duration(rules.MaxTTL), o.now)
		if c.Format == store.JWT && c.ExpiresAt.After(before.ExpiresAt) {
			d.add(WrongState, "expire_time", "a JWT cannot outlive what is written in it: rotate it instead")
		}
	}
	if changes(mask, "roles", "scopes", "permissions") {
		d.ownRights(c, p)
		d.installationRoles(c.Tenant, listed(c))
		d.wildcards(o.actor, d.wildcard, listed(&before), listed(c))
		d.grants(o.actor, reachOf(&before, p), reachOf(c, p))
	}
	if changes(mask, "constraints") {
		d.within(o.actor, c.Constraints)
	}
	return d.err()
}

// specOf says of a credential what it is.
func specOf(c *store.Credential) CredentialSpec {
	return CredentialSpec{
		Type: c.Type, Tenant: c.Tenant, Principal: c.Principal, Name: c.Name, Environment: c.Environment, Format: c.Format,
		Rights: listed(c), Constraints: c.Constraints, Metadata: c.Metadata,
		NotBefore: c.NotBefore, ExpiresAt: c.ExpiresAt,
		Period: time.Duration(c.Period), MaxExpiresAt: c.MaxExpiresAt, Parent: c.Parent,
	}
}

// set takes over one field of the protocol.
func (s *CredentialSpec) set(from *CredentialSpec, field string) {
	switch field {
	case "display_name":
		s.Name = from.Name
	case "roles", "scopes", "permissions":
		s.Rights.set(&from.Rights, field)
	case "constraints":
		s.Constraints = from.Constraints
	case "metadata":
		s.Metadata = from.Metadata
	case "not_before":
		s.NotBefore = from.NotBefore
	case "expire_time", "ttl": // one choice, of which the mask may name either
		s.ExpiresAt, s.TTL = from.ExpiresAt, from.TTL
	case "renew_period":
		s.Period = from.Period
	case "max_expire_time":
		s.MaxExpiresAt = from.MaxExpiresAt
	}
}

func changes(mask []string, fields ...string) bool {
	return slices.ContainsFunc(mask, func(name string) bool { return slices.Contains(fields, name) })
}

// onCredential runs an operation that changes one credential and returns it.
func (r *Registry) onCredential(ctx context.Context, call Call, name string, req any, id, etag string, do func(*operation, *store.Credential) error) (*Credential, Change, error) {
	var result Credential
	change, err := r.change(ctx, call, action{name, same}, req, func(o *operation) error {
		c, err := o.credential(id, etag)
		if err != nil {
			return err
		}
		if err := do(o, c); err != nil {
			return err
		}
		o.made = c.ID
		result = o.view(c)
		return nil
	}, func(o *operation, made string) error {
		c, err := o.credential(made, "")
		if err == nil {
			result = o.view(c)
		}
		return err
	})
	if err != nil {
		return nil, change, err
	}
	return &result, change, nil
}
