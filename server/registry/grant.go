package registry

import (
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// Nobody grants more than they have (G-09). To grant is to give rights to a
// principal or a credential, and also to be handed a secret: of a credential that is
// rotated, a session that one vouches for, a password that one sets.
//
// What counts is what the receiver could do afterwards and could not before:
//
//	api_key  what it lists; if it lists nothing at all, what its principal has
//	token    what its principal has
//	pat      the scopes that it lists, and its user's roles and permissions; of those,
//	         where it lists any, no more than these
//
// Each role, scope and permission of it the actor must have, by name or by a
// pattern: "orders.*" covers "orders.read" and "orders.items.*". An actor that is
// Unlimited need not, with two exceptions:
//
//   - The roles of Postern's own API are ranked, those that the installation has added
//     to it too. Who grants one must have one at least as strong.
//   - Permissions of Postern's own ("postern.…") must be had, or be the
//     platform-admin's to give.

// The roles that mean something to Postern's own API.
const (
	// PlatformAdmin may do everything, in every tenant. Only principals of the
	// installation have it.
	PlatformAdmin = "platform-admin"
	// TenantAdmin may do everything in its tenant.
	TenantAdmin = "tenant-admin"
	// Issuer may issue credentials, Auditor read everything.
	Issuer  = "issuer"
	Auditor = "auditor"
	// Approver may approve what others ask for, see approval.go.
	Approver = "approver"
)

// stronger lists, for each of these roles, those that may grant it.
var stronger = map[string][]string{
	PlatformAdmin: {PlatformAdmin},
	TenantAdmin:   {PlatformAdmin, TenantAdmin},
	Issuer:        {PlatformAdmin, TenantAdmin, Issuer},
	Auditor:       {PlatformAdmin, TenantAdmin, Auditor},
	Approver:      {PlatformAdmin, TenantAdmin, Approver},
}

// ownPermission starts the permissions of Postern's own API.
const ownPermission = "postern."

// covers reports whether a right that is held includes another one. Both may be
// patterns, which only scopes and permissions have.
func covers(held, asked string) bool {
	if prefix, ok := strings.CutSuffix(held, "*"); ok && strings.HasPrefix(asked, prefix) {
		return true
	}
	return held == asked
}

// includes reports whether rights include one of a list of the given name.
func (g Rights) includes(list, right string) bool {
	switch list {
	case "roles":
		return slices.Contains(g.Roles, right)
	case "scopes":
		return slices.ContainsFunc(g.Scopes, func(held string) bool { return covers(held, right) })
	case "permissions":
		return slices.ContainsFunc(g.Permissions, func(held string) bool { return covers(held, right) })
	}
	return false
}

// none reports whether no right is listed.
func (g Rights) none() bool { return len(g.Roles)+len(g.Scopes)+len(g.Permissions) == 0 }

// beyond returns the rights that are not included in others.
func (g Rights) beyond(others func(list, right string) bool) Rights {
	var more Rights
	to := more.lists()
	for i, l := range g.lists() {
		for _, right := range *l.items {
			if !others(l.field, right) {
				*to[i].items = append(*to[i].items, right)
			}
		}
	}
	return Rights{*to[0].items, *to[1].items, *to[2].items}
}

// can reports whether the actor may grant a right.
func (a *Actor) can(list, right string) bool {
	if list == "roles" {
		if by := a.whoGrants(right); by != nil {
			return slices.ContainsFunc(a.Rights.Roles, func(r string) bool { return slices.Contains(by, r) })
		}
	}
	if list == "permissions" && isOwn(right) {
		return slices.Contains(a.Rights.Roles, PlatformAdmin) || a.Rights.includes(list, right)
	}
	return a.Unlimited || a.Rights.includes(list, right)
}

// whoGrants returns the roles of which one is needed to grant a role; nil for roles
// that mean nothing here. A role with a "*" may mean anything to a policy.
func (a *Actor) whoGrants(role string) []string {
	if strings.Contains(role, "*") {
		return stronger[PlatformAdmin]
	}
	if by := stronger[role]; by != nil {
		return by
	}
	return a.Ranks[role]
}

// isOwn reports whether a permission, or one that its pattern covers, is of Postern's
// own API.
func isOwn(permission string) bool {
	prefix, star := strings.CutSuffix(permission, "*")
	return strings.HasPrefix(permission, ownPermission) || star && strings.HasPrefix(ownPermission, prefix)
}

// reach is what a credential can do.
type reach struct {
	Rights
	// user is set for a token that lists permissions: these are the ceiling of what
	// it can do, and what it can do of them is what its user can.
	user *Rights
	// of is the key of the principal.
	of string
}

// reachOf returns what a credential of a principal can do.
func reachOf(c *store.Credential, p *store.Principal) reach {
	own, all := listed(c), rightsOf(p)
	switch {
	case c.Type == store.APIKey && !own.none():
		return reach{Rights: own}
	case c.Type == store.PAT && len(c.Roles)+len(c.Permissions) > 0:
		return reach{Rights: own, user: &all, of: p.Key()}
	case c.Type == store.PAT && len(c.Scopes) > 0:
		return reach{Rights: Rights{all.Roles, c.Scopes, all.Permissions}}
	}
	return reach{Rights: all}
}

// rightsOf are the rights of a principal.
func rightsOf(p *store.Principal) Rights { return Rights{p.Roles, p.Scopes, p.Permissions} }

// listed are the rights that a credential lists itself.
func listed(c *store.Credential) Rights { return Rights{c.Roles, c.Scopes, c.Permissions} }

// grants reports the rights that an actor is about to give and cannot. Before is
// what the receiver could do already.
func (f *faults) grants(a *Actor, before, after reach) {
	more := after.beyond(before.includes)
	f.ceiling(a, more, after.user != nil)
	lack := more.beyond(func(list, right string) bool {
		return a.can(list, right) || list == "permissions" && a.narrows(after, right)
	})
	if after.user != nil && !lack.none() {
		// It can do no more than its user: an actor that could hand over all of that
		// need not have each permission by its name.
		whole := Rights{Roles: after.user.Roles, Scopes: more.Scopes, Permissions: after.user.Permissions}
		if whole.beyond(a.can).none() {
			return
		}
	}
	for _, l := range lack.lists() {
		f.exceeds(l.field, *l.items, "only who has them can grant them")
	}
}

func (f *faults) exceeds(field string, missing []string, why string) {
	if len(missing) == 0 {
		return
	}
	lack := fault(GrantExceedsIssuer, field, "the caller does not have %s: %s", strings.Join(missing, ", "), why)
	lack.Meta = map[string]string{"missing": seal.Scrub(strings.Join(missing, " "))}
	f.list = append(f.list, lack)
}

// narrows reports whether a permission bounds a token of the actor's own user that
// is narrowed at least as far as the actor is: whatever it comes to, it is no more.
func (a *Actor) narrows(after reach, permission string) bool {
	return after.user != nil && after.of == a.Name() && Rights{Permissions: a.Narrowed}.includes("permissions", permission)
}

// ceiling holds an actor whose own permissions are narrowed. Roles would bring more
// than that, so it can pass on none, save to a token that is narrowed itself.
func (f *faults) ceiling(a *Actor, more Rights, narrowed bool) {
	if a.Narrowed == nil {
		return
	}
	over := more.beyond(func(list, right string) bool {
		return list == "scopes" || list == "roles" && narrowed || Rights{Permissions: a.Narrowed}.includes(list, right)
	})
	for _, l := range over.lists() {
		f.exceeds(l.field, *l.items, "its own permissions are narrowed, and so must be what it grants")
	}
}

// wildcards reports rights with a "*" that were not there before and that nobody has
// allowed.
func (f *faults) wildcards(a *Actor, allowed bool, before, after Rights) {
	had := before.lists()
	for i, l := range after.lists() {
		for _, right := range *l.items {
			switch {
			case !strings.Contains(right, "*") || slices.Contains(*had[i].items, right):
			case !allowed:
				f.add(WildcardNotAllowed, l.field, "%s is a wildcard: list what is needed, or set allow_wildcard", right)
			case !a.Wildcard:
				f.add(WildcardNotAllowed, l.field, "%s is a wildcard, and granting it needs the permission postern.credentials.wildcard", right)
			}
		}
	}
}

// ownRights reports what a credential lists and its principal does not have (P-07).
// For an API key, a list of the principal's that is empty limits nothing. What the
// principal's roles stand for is the policy's business, so where it has any, its
// permissions are not known here.
func (f *faults) ownRights(c *store.Credential, p *store.Principal) {
	own, all := listed(c), rightsOf(p)
	if c.Type == store.Token && !own.none() {
		f.field("roles", "a token has the rights of its principal; give them to that one")
		return
	}
	limited := map[string]bool{
		"roles":       len(all.Roles) > 0 || c.Type == store.PAT,
		"scopes":      len(all.Scopes) > 0 || c.Type == store.PAT,
		"permissions": len(all.Roles) == 0 && (len(all.Permissions) > 0 || c.Type == store.PAT),
	}
	excess := own.beyond(func(list, right string) bool { return !limited[list] || all.includes(list, right) })
	for _, l := range excess.lists() {
		if len(*l.items) > 0 {
			f.field(l.field, "the principal does not have %s", strings.Join(*l.items, ", "))
		}
	}
}

// installationRoles reports a role that principals of a tenant cannot have.
func (f *faults) installationRoles(tenant string, g Rights) {
	f.installationRolesIn("roles", tenant, g.Roles)
}

func (f *faults) installationRolesIn(field, tenant string, roles []string) {
	if tenant != "" && slices.Contains(roles, PlatformAdmin) {
		f.field(field, "%s is a role of the installation: leave the tenant empty", PlatformAdmin)
	}
}

// within reports the limits of the actor's own credential that are not kept by what
// it issues. A list of the actor's limits, so one must be there, and each item must
// be covered by one of the actor's.
func (f *faults) within(a *Actor, c *policy.Constraints) {
	own := a.Constraints
	if own == nil || a.Unlimited {
		return
	}
	if c == nil {
		c = &policy.Constraints{}
	}
	for _, l := range []struct {
		name string
		ok   bool
	}{
		{"networks", coveredBy(own.Networks, c.Networks, coversNetwork)},
		{"methods", coveredBy(own.Methods, c.Methods, equal[string])},
		{"hosts", coveredBy(own.Hosts, c.Hosts, policy.HostPattern.Covers)},
		{"paths", coveredBy(own.Paths, c.Paths, policy.PathPattern.Covers)},
		{"audiences", coveredBy(own.Audiences, c.Audiences, equal[string])},
		{"peers", coveredBy(own.Peers, c.Peers, equal[string])},
		{"resources", coveredBy(own.Resources, c.Resources, coversResource)},
		{"windows", coveredBy(own.Windows, c.Windows, coversWindow)},
		{"require_tls", c.RequireTLS || !own.RequireTLS},
	} {
		if !l.ok {
			f.add(GrantExceedsIssuer, "constraints."+l.name, "the caller's own credential is limited there, and so must be what it issues")
		}
	}
}
