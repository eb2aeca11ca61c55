package registry

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// TenantSpec is what can be said of a tenant: all of it when it is created, the
// fields of TenantFields when it is updated.
type TenantSpec struct {
	ID             string
	Name           string
	Disabled       bool
	DisabledReason string
	// Rules that are zero are left to the installation.
	Rules  store.Rules
	Labels map[string]string
}

// TenantFields are the fields that UpdateTenant changes. An actor of the tenant
// itself changes display_name and labels only.
var TenantFields = []string{
	"display_name", "disabled", "disabled_reason", "max_ttl", "max_pats",
	"unused_for", "session_idle", "session_max", "labels",
}

// ownFields are the TenantFields that a tenant changes itself: it does not set its
// own bounds.
var ownFields = []string{"display_name", "labels"}

// UpdateTenantRequest changes the tenant that Spec.ID names.
type UpdateTenantRequest struct {
	Etag string
	// Fields are some of TenantFields.
	Fields []string
	Spec   TenantSpec
}

// CreateTenant makes a tenant. Only actors of the installation can.
func (r *Registry) CreateTenant(ctx context.Context, call Call, spec TenantSpec) (*store.Tenant, Change, error) {
	return r.onTenant(ctx, call, "tenant.create", spec, func(o *operation) (*store.Tenant, error) {
		if o.actor.Tenant != "" {
			return nil, deny("", "only the installation makes tenants")
		}
		var f faults
		if !isTenantID(spec.ID) {
			f.field("id", "is at most %d lower-case letters, digits, dots, dashes and underscores", maxTenantID)
		} else if holdsSecret(spec.ID) {
			f.field("id", "looks like a secret")
		}
		t := &store.Tenant{ID: spec.ID, CreatedAt: o.now}
		o.target(store.KindTenant, t.ID, t.ID)
		s := spec
		o.fillTenant(&f, t, &s)
		if err := f.err(); err != nil {
			return nil, err
		}
		if _, err := readTenant(o.tx, o.actor, t.ID); err == nil {
			return nil, fail(AlreadyExists, "id", "there is a tenant with this id")
		} else if ReasonOf(err) != NotFound {
			return nil, err
		}
		return t, o.put(t, "the id")
	})
}

func (o *operation) fillTenant(f *faults, t *store.Tenant, s *TenantSpec) {
	f.name("display_name", s.Name, maxName)
	f.labels("labels", s.Labels)
	if s.DisabledReason = seal.Scrub(s.DisabledReason); s.DisabledReason != "" && !s.Disabled {
		f.field("disabled_reason", "is for a tenant that is disabled")
	}
	f.text("disabled_reason", s.DisabledReason, maxReason)
	f.rules(&s.Rules)
	t.Name, t.Labels, t.Rules, t.UpdatedAt = s.Name, s.Labels, s.Rules, o.now
	t.Disabled = o.switched(t.Disabled, s.Disabled, s.DisabledReason)
}

// What a rule may be: less is a mistake in the unit, more no rule.
const (
	minRule   = time.Minute
	minUnused = day
	maxRule   = 10 * 365 * day
	mostPATs  = 10_000
)

// rules checks what a tenant demands.
func (f *faults) rules(rules *store.Rules) {
	for _, r := range []struct {
		field string
		value store.Duration
		least time.Duration
	}{
		{"max_ttl", rules.MaxTTL, minRule}, {"unused_for", rules.UnusedFor, minUnused},
		{"session_idle", rules.SessionIdle, minRule}, {"session_max", rules.SessionMax, minRule},
	} {
		if d := time.Duration(r.value); d != 0 && (d < r.least || d > maxRule) {
			f.field(r.field, "is between %s and %s, or is left out", span(r.least), span(maxRule))
		}
	}
	if rules.MaxPATs < 0 || rules.MaxPATs > mostPATs {
		f.field("max_pats", "is between 1 and %d, or is left out", mostPATs)
	}
}

// GetTenant returns a tenant.
func (r *Registry) GetTenant(ctx context.Context, actor Actor, id string) (*store.Tenant, error) {
	var t *store.Tenant
	err := r.store.View(ctx, func(from store.Reader) (err error) {
		t, err = readTenant(from, &actor, id)
		return err
	})
	if err != nil {
		return nil, asError(err)
	}
	return t, nil
}

// ListTenants lists the tenants that the actor sees, in the order of their ids.
func (r *Registry) ListTenants(ctx context.Context, actor Actor, page Page) ([]*store.Tenant, string, error) {
	tenant, err := actor.visible("")
	if err != nil {
		return nil, "", err
	}
	c, err := r.cursor(page, []string{"tenants", tenant})
	if err != nil {
		return nil, "", err
	}
	return list(ctx, r, store.Query{Tenant: tenant}, c, func(*store.Tenant) bool { return true })
}

// UpdateTenant changes fields of a tenant.
func (r *Registry) UpdateTenant(ctx context.Context, call Call, req UpdateTenantRequest) (*store.Tenant, Change, error) {
	return r.onTenant(ctx, call, "tenant.update", req, func(o *operation) (*store.Tenant, error) {
		t, err := o.tenant(req.Spec.ID, req.Etag)
		if err != nil {
			return nil, err
		}
		var f faults
		f.fields(req.Fields, TenantFields)
		s := specOfTenant(t)
		for _, field := range req.Fields {
			if o.actor.Tenant != "" && slices.Contains(TenantFields, field) && !slices.Contains(ownFields, field) {
				return nil, deny(field, "only the installation changes this; a tenant changes %s", join(ownFields))
			}
			s.set(&req.Spec, field)
		}
		if !s.Disabled && !slices.Contains(req.Fields, "disabled_reason") {
			s.DisabledReason = ""
		}
		o.detail("fields", strings.Join(req.Fields, ","))
		o.fillTenant(&f, t, &s)
		if err := f.err(); err != nil {
			return nil, err
		}
		return t, o.put(t, "the id")
	})
}

// specOfTenant says of a tenant what it is.
func specOfTenant(t *store.Tenant) TenantSpec {
	s := TenantSpec{ID: t.ID, Name: t.Name, Disabled: t.Disabled != nil, Rules: t.Rules, Labels: t.Labels}
	if t.Disabled != nil {
		s.DisabledReason = t.Disabled.Reason
	}
	return s
}

// set takes over one field of the protocol.
func (s *TenantSpec) set(from *TenantSpec, field string) {
	switch field {
	case "display_name":
		s.Name = from.Name
	case "disabled":
		s.Disabled = from.Disabled
	case "disabled_reason":
		s.DisabledReason = from.DisabledReason
	case "max_ttl":
		s.Rules.MaxTTL = from.Rules.MaxTTL
	case "max_pats":
		s.Rules.MaxPATs = from.Rules.MaxPATs
	case "unused_for":
		s.Rules.UnusedFor = from.Rules.UnusedFor
	case "session_idle":
		s.Rules.SessionIdle = from.Rules.SessionIdle
	case "session_max":
		s.Rules.SessionMax = from.Rules.SessionMax
	case "labels":
		s.Labels = from.Labels
	}
}

// onTenant runs an operation that makes or changes one tenant and returns it.
func (r *Registry) onTenant(ctx context.Context, call Call, name string, req any, do func(*operation) (*store.Tenant, error)) (*store.Tenant, Change, error) {
	var t *store.Tenant
	change, err := r.change(ctx, call, action{name, same}, req, func(o *operation) (err error) {
		if t, err = do(o); err == nil {
			o.made = t.ID
		}
		return err
	}, func(o *operation, made string) (err error) {
		t, err = o.tenant(made, "")
		return err
	})
	if err != nil {
		return nil, change, err
	}
	return t, change, nil
}
