# METADATA
# title: Which models may be asked, and what about
# description: |
#   Decides requests that ask a model, as routes with `reads` know them. Whoever asks has
#   the scope of the model's tier, model:tier:standard, and what the category of the
#   prompt needs. What is in no table is denied. Three tables under data.models, each
#   optional:
#
#     tiers       model → tier. Where it is there, it counts in the place of `models.tiers`
#                 of the configuration, and a model that is not in it is nobody's.
#     categories  category → what a prompt of it needs: {} nothing more, or {roles, scopes,
#                 permission}: one of the roles, all of the scopes, and the permission,
#                 which the tables of data.postern.lib.rbac give. Where it is there, a
#                 prompt of another category, or of none, is denied.
#     limits      tier → {max_tokens, prompt_tokens}: a request that asks for more, or does
#                 not say how much, is denied
#
#   Requests that ask no model are not decided here: `applies` says so.
package postern.lib.models

# The whole decision, for requests that ask a model.
decision := {
	"allow": allow,
	"deny": deny,
	"reason": reason,
	"message": message,
	"missing_scopes": missing_scopes,
	"missing_permissions": missing_permissions,
} if {
	applies
}

default applies := false

applies if input.target.model

default allow := false

allow if {
	tier
	in_category
	count(deny) == 0
	count(missing_scopes) == 0
	count(missing_permissions) == 0
}

default settings := {}

settings := data.models

has_tiers if settings.tiers

tier := settings.tiers[input.target.model] if has_tiers

tier := input.target.tier if not has_tiers

scopes := object.get(input, ["principal", "scopes"], [])

missing_scopes contains scope if {
	scope := sprintf("model:tier:%s", [tier])
	not scope in scopes
}

missing_scopes contains scope if {
	some scope in object.get(category, "scopes", [])
	not scope in scopes
}

# The entry of the prompt's category.
default category := {}

category := settings.categories[input.target.category]

default in_category := false

in_category if not settings.categories

in_category if {
	is_object(settings.categories[input.target.category])
	in_role
}

in_role if not category.roles

in_role if {
	some role in category.roles
	role in input.principal.roles
}

missing_permissions contains category.permission if {
	category.permission
	not permitted(category.permission)
}

# As the tables of RBAC have it for an action of that name.
permitted(permission) if {
	answer := postern.permits(
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
			"scopes": scopes,
			"narrowed": object.get(input, ["principal", "narrowed", "permissions"], []),
			"user_roles": object.get(input, ["principal", "narrowed", "user_roles"], []),
			"user_permissions": object.get(input, ["principal", "narrowed", "user_permissions"], []),
			"method": "",
			"path": "",
			"folded": "",
			"action": permission,
			"required_permission": "",
			"required_scopes": [],
		},
	)
	answer.allow
}

deny contains "the model is in no tier" if not tier

deny contains "the category is not known, or not for this role" if not in_category

deny contains text if {
	some what, most in settings.limits[tier]
	not within(what, most)
	text := sprintf("%s is over its limit, or nobody knows it", [what])
}

within(what, most) if input.target[what] <= most

default reason := ""

reason := "model_denied" if not tier

reason := "category_denied" if {
	tier
	not in_category
}

# What an agent is told of its scopes is the same everywhere.
default message := ""

message := sprintf("Agent %s lacks scope: %s", [input.principal.id, concat(" ", sort(missing_scopes))]) if {
	input.principal.kind == "agent"
	reason == ""
	count(deny) == 0
	count(missing_scopes) > 0
}
