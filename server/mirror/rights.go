package mirror

import (
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// narrow gives a principal the rights that a credential has at the moment (see
// store.Credential):
//
//	api_key  what it lists; if it lists nothing at all, what its principal has
//	pat      nothing listed: what its user has. Otherwise the scopes that it lists and
//	         its user has; and where it lists roles or permissions, of those too only
//	         what is common (and see policy.Narrowed), else the user's. If it lists
//	         scopes and its user has none of them any more: nothing
//	token    what its principal has
//
// So whatever a user loses, all tokens of that user lose at once.
func narrow(p *policy.Principal, sort store.CredentialType, own, of *rights) {
	switch {
	case sort == store.APIKey && !own.none():
		p.Roles, p.Scopes, p.Permissions = own.Roles, own.Scopes, own.Permissions
	case sort == store.PAT && len(own.Scopes) > 0 && len(common(own.Scopes, of.Scopes)) == 0:
		p.Narrowed = &policy.Narrowed{} // no scope is left, which must not look like no limit
	case sort == store.PAT && !own.none():
		p.Roles, p.Scopes, p.Permissions = of.Roles, common(own.Scopes, of.Scopes), of.Permissions
		if len(own.Roles)+len(own.Permissions) > 0 {
			p.Roles, p.Permissions = common(of.Roles, own.Roles), common(of.Permissions, own.Permissions)
			p.Narrowed = &policy.Narrowed{Permissions: own.Permissions, UserRoles: of.Roles, UserPermissions: of.Permissions}
		}
	default:
		p.Roles, p.Scopes, p.Permissions = of.Roles, of.Scopes, of.Permissions
	}
}

func (r *rights) none() bool { return len(r.Roles)+len(r.Scopes)+len(r.Permissions) == 0 }

// common returns what both lists hold, in the order of the first.
func common(a, b []string) []string {
	var both []string
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both
}
