# METADATA
# title: Who may do what through the admin API
# description: |
#   Every call of the admin API asks this decision once for each record that it is
#   about. What no role and no permission allows is denied. The question:
#
#     input.principal                     who calls
#     input.target.action.action          what they want, for example "credentials.issue"
#     input.target.action.resource_type   the kind of the record, and its id
#     input.target.action.resource_id
#     input.target.action.properties      tenant     whose it is; "" for the installation's
#                                                    own, "*" for those of all tenants
#                                         principal  to whom it belongs, if to anybody
#                                         type       of a credential: api_key, pat or token
#
#   The answer, besides allow: dynamic_metadata.grants.unlimited says that the caller
#   may grant what it does not have itself, and .wildcard that it may grant wildcards.
#   dynamic_metadata.itself says that a credential may only be rotated because it does
#   so by itself: it must end at once then, and its successor lives no longer than it.
#
#   A role says:
#
#     actions    what it may do; "credentials.*" is every action on credentials, and
#                "*" every action
#     reach      to whose records: "all", "tenant" (the caller's own tenant; for the
#                installation's principals the records of no tenant), "below" (the same,
#                but for the installation's principals all), or "own" (the caller's own)
#     holders    which principals can have it: "installation" (of no tenant), "tenants"
#                (of a tenant), "users" and "everybody" (every user of Postern's, or every
#                principal, has it without its being listed), or "anybody"
#     unlimited  it may grant what it does not have
#     wildcard   it may grant wildcards
#     standing   the actions that remain to a caller that shows a key or a token which
#                it keeps, and has not just logged in, and to an agent that acts for its
#                user; all, if it is left out
#
#   A data file with admin.roles adds roles, or replaces those below by name:
#   {"admin": {"roles": {"issuer": {}}}} takes the role of an issuer away. Whatever it
#   says, nobody sees or changes records of another tenant than their own unless they
#   belong to the installation, and an issuer grants no more than it has.
#
#   A role of a tenant is worth nothing outside of it: who can name its own roles
#   there does not become an administrator of the installation.
#
#   agents.bind says that an agent is a workload or the holder of a certificate. Their
#   names are no secret, so only the installation says it, unless a table lets a tenant.
#
#   Besides, the permission "postern." + action allows the action on what is the
#   caller's own tenant's. postern.credentials.wildcard allows to grant wildcards.
package postern.admin

default decision := {"allow": false}

decision := {"allow": true, "dynamic_metadata": object.union(grants, bounds)} if allow

decision := {"allow": false, "missing_permissions": [permission]} if not allow

default allow := false

allow if some _ in deciding

allow if {
	holds(permission)
	reaches("tenant")
}

grants := {"grants": {"unlimited": unlimited, "wildcard": wildcard}}

default bounds := {}

bounds := {"itself": true} if {
	rotates_itself
	not for_other_reasons
}

for_other_reasons if {
	holds(permission)
	reaches("tenant")
}

for_other_reasons if {
	some name in deciding
	not beyond_standing(roles[name])
}

# unlimited and wildcard count only if they come from a role that allows the action:
# who may read everything as an auditor grants nothing. A token that has a part of
# its user's rights passes on no more than that part.
default unlimited := false

unlimited if {
	some name in deciding
	roles[name].unlimited == true
	not caller.narrowed
}

default wildcard := false

wildcard if {
	some name in deciding
	roles[name].wildcard == true
	not caller.narrowed
}

wildcard if holds("postern.credentials.wildcard")

standard := {
	"platform-admin": {
		"actions": ["*"],
		"reach": "all",
		"holders": "installation",
		"unlimited": true,
		"wildcard": true,
	},
	"tenant-admin": {
		"actions": [
			"credentials.*", "principals.*", "users.*", "sessions.*", "denials.*", "audit.*", "decisions.*",
			"budgets.get", "budgets.list",
			"agents.create", "agents.get", "agents.list", "agents.update", "agents.disable", "agents.enable",
			"agents.decommission",
			"approvals.*", "consents.*", "tokens.*",
			"tenants.get", "tenants.list", "tenants.update", "policy.get",
		],
		"reach": "tenant",
		"holders": "tenants",
		"unlimited": true,
	},
	"issuer": {
		"actions": [
			"credentials.issue", "credentials.rotate", "credentials.renew", "credentials.revoke", "credentials.disable",
			"credentials.get", "credentials.list", "tokens.issue", "tokens.revoke",
		],
		"reach": "tenant",
		"holders": "anybody",
	},
	"auditor": {
		"actions": [
			"credentials.get", "credentials.list", "credentials.usage", "principals.get", "principals.list",
			"sessions.get", "sessions.list", "tenants.get", "tenants.list", "denials.list", "audit.list",
			"decisions.get", "decisions.list", "agents.get", "agents.list", "budgets.get", "budgets.list",
			"approvals.get", "approvals.list", "consents.get", "consents.list", "policy.get",
		],
		"reach": "below",
		"holders": "anybody",
	},
	"approver": {
		"actions": ["approvals.approve", "approvals.deny", "approvals.get", "approvals.list"],
		"reach": "tenant",
		"holders": "anybody",
	},
	"bearer": {
		"actions": ["tokens.issue", "tokens.exchange"],
		"reach": "own",
		"holders": "everybody",
	},
	"requester": {
		"actions": ["approvals.request", "approvals.get", "approvals.withdraw"],
		"reach": "own",
		"holders": "everybody",
	},
	"self": {
		"actions": [
			"credentials.get", "credentials.list", "credentials.usage", "credentials.issue", "credentials.rotate",
			"credentials.revoke", "sessions.get", "sessions.list", "sessions.rotate", "sessions.delete",
			"approvals.list", "consents.get", "consents.grant", "consents.list", "consents.withdraw",
			"principals.get", "users.set_password",
		],
		"reach": "own",
		"holders": "users",
		"standing": [
			"credentials.get", "credentials.list", "credentials.usage", "credentials.revoke",
			"sessions.get", "sessions.list", "sessions.delete", "principals.get",
			"approvals.list", "consents.get", "consents.list", "consents.withdraw",
		],
	},
}

default custom := {}

custom := data.admin.roles

roles[name] := role if {
	some name, role in standard
	not name in object.keys(custom)
}

roles[name] := role if some name, role in custom

caller := input.principal

target := input.target.action

owner := target.properties

permission := concat("", ["postern.", target.action])

# The roles that allow what is asked.
deciding contains name if {
	some name, role in roles
	has_role(name, role)
	may(role)
	reaches(role.reach)
}

# A token that lists scopes stands for its user, or its agent, in these alone.
has_role(name, role) if {
	held[name]
	fits(role.holders)
	delegated
}

has_role(_, role) if {
	role.holders == "users"
	caller.kind == "user"
	caller.id != ""
	of_postern
	not narrowed_beyond
	about_all_of_its_user
}

has_role(_, role) if {
	role.holders == "everybody"
	caller.id != ""
	of_postern
	not narrowed_beyond
	asks_for_itself
}

# A token of a few scopes looks after itself, and after nothing else of its user's.
about_all_of_its_user if delegated

about_all_of_its_user if target.resource_id == caller.credential_id

held[name] if some name in caller.roles

# A token that lists permissions has of its user's rights only what it lists.
held[name] if {
	some name in caller.narrowed.user_roles
	listed(permission)
}

listed(name) if {
	some pattern in caller.narrowed.permissions
	covers(pattern, name)
}

narrowed_beyond if {
	caller.narrowed
	not listed(permission)
}

fits("installation") if caller.tenant == ""

fits("tenants") if caller.tenant != ""

fits("anybody")

may(role) if {
	some pattern in role.actions
	covers(pattern, target.action)
	not kept_back(role)
}

# A key or a token that was stolen must not be able to make others that outlive it,
# or to change the password. It may be rotated by itself: that ends it.
kept_back(role) if {
	beyond_standing(role)
	not rotates_itself
}

beyond_standing(role) if {
	role.standing
	caller.method in {"api_key", "pat", "token", "agent"}
	not target.action in role.standing
}

rotates_itself if {
	target.action == "credentials.rotate"
	target.resource_id == caller.credential_id
}

reaches("all") if caller.tenant == ""

reaches("tenant") if owner.tenant == caller.tenant

reaches("below") if owner.tenant == caller.tenant

reaches("below") if caller.tenant == ""

reaches("own") if {
	owner.tenant == caller.tenant
	owner.principal == caller.id
	personal
}

# What users make for themselves are personal access tokens.
personal if not target.action in {"credentials.issue", "credentials.rotate"}

personal if owner.type == "pat"

# Another issuer's alice is not the alice of Postern.
of_postern if caller.issuer == "postern"

delegated if not caller.method in {"pat", "agent"}

delegated if {
	caller.method == "pat"
	count(caller.scopes) == 0
}

delegated if "postern.admin" in caller.scopes

# An agent that has shown to hold its key calls for itself. A token of its does not.
delegated if {
	caller.method == "agent"
	"pop" in caller.amr
}

asks_for_itself if delegated

# An agent asks for approval by the token by which it would act. That is no more than it
# may for itself: other roles in the token do not count for it.
asks_for_itself if {
	caller.method == "agent"
	target.action in {"approvals.request", "approvals.get", "approvals.withdraw"}
}

# What a token is exchanged for can do less than it.
delegated if target.action == "tokens.exchange"

holds(name) if {
	name in caller.permissions
	delegated
}

holds(name) if {
	name in caller.narrowed.user_permissions
	listed(name)
	delegated
}

covers(pattern, name) if pattern == name

covers(pattern, name) if {
	endswith(pattern, "*")
	prefix := trim_suffix(pattern, "*")
	prefix_ends(prefix)
	startswith(name, prefix)
}

prefix_ends("")

prefix_ends(prefix) if endswith(prefix, ".")
