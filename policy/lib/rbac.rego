# METADATA
# title: Roles, permissions and scopes from plain data
# description: |
#   Five tables, all optional, decide. What no table allows is denied.
#
#     roles        name → {permissions, inherits, deny}, or just a list of permissions.
#                  A permission is a name, or ends in "*" as in "orders.*". In its
#                  place, {methods, path} grants a path directly.
#     routes       a list of {methods, path, permission, scopes, public}. The first
#                  that matches says what a request needs; public needs nothing.
#                  What a route needs, it needs in any spelling of the path and
#                  method: /ADMIN and /admin/ too need what /admin needs. GET
#                  stands for HEAD, unless a route of the same path lists HEAD.
#     scopes       name → the scopes that it implies.
#     deny         a list of permissions that nobody has, and of {methods, path} that
#                  nobody reaches, in any spelling of the path.
#     permissions  the names that there are; if it is there, a name that is not in it
#                  is a mistake and the policy does not load.
#
#   A caller has the permissions of its credential and those of its roles. A token
#   that lists permissions of its user's (a personal access token) has those of them
#   that the user has at the moment. A deny wins over them, whichever role it comes from. A request needs what its route
#   needs here and in Postern's own configuration, all of it; an action needs the
#   permission of its name. Paths are as in `/orders/7`, `/orders/*`, `/public/**`.
package postern.lib.rbac

# The whole decision: allow, and what was missing. Postern defines each of the five
# tables as an empty object where the policy directory does not.
decision := postern.permits(
	{
		"roles": data.roles,
		"permissions": data.permissions,
		"routes": data.routes,
		"scopes": data.scopes,
		"deny": data.deny,
	},
	{
		"roles": object.get(input, ["principal", "roles"], []),
		"permissions": object.get(input, ["principal", "permissions"], []),
		"scopes": object.get(input, ["principal", "scopes"], []),
		"narrowed": object.get(input, ["principal", "narrowed", "permissions"], []),
		"user_roles": object.get(input, ["principal", "narrowed", "user_roles"], []),
		"user_permissions": object.get(input, ["principal", "narrowed", "user_permissions"], []),
		"method": object.get(input, ["target", "http", "method"], ""),
		"path": object.get(input, ["target", "http", "path"], ""),
		"folded": object.get(input, ["target", "http", "folded"], ""),
		"action": object.get(input, ["target", "action", "action"], ""),
		"required_permission": object.get(input, ["route", "permission"], ""),
		"required_scopes": object.get(input, ["route", "scopes"], []),
	},
)

default allow := false

allow := decision.allow
