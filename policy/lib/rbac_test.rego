package postern.lib.rbac_test

import data.postern.lib.rbac

shop := {
	"user": ["products.list"],
	"admin": {"inherits": ["user"], "permissions": ["products.add", "products.delete"]},
	"intern": {"inherits": ["admin"], "deny": ["products.delete"]},
}

routes := [
	{"methods": ["GET"], "path": "/products", "permission": "products.list"},
	{"methods": ["POST"], "path": "/products", "permission": "products.add"},
	{"methods": ["DELETE"], "path": "/products/*", "permission": "products.delete"},
	{"path": "/reports/**", "scopes": ["reports:read", "billing"]},
	{"path": "/public/**", "public": true},
]

asks(roles, method, path) := {
	"principal": {"roles": roles, "permissions": [], "scopes": []},
	"target": {"http": {"method": method, "path": path}, "tenant": ""},
}

# Z-01
test_permissions_of_the_credential if {
	question := object.union(asks([], "POST", "/products"), {"principal": {"permissions": ["products.add"]}})
	rbac.allow with input as question with data.routes as routes
	not rbac.allow with input as asks([], "POST", "/products") with data.routes as routes
}

# Z-02
test_roles_and_inheritance if {
	every method, path in {"GET": "/products", "POST": "/products", "DELETE": "/products/7"} {
		rbac.allow with input as asks(["admin"], method, path) with data.roles as shop with data.routes as routes
	}
	rbac.allow with input as asks(["user"], "GET", "/products") with data.roles as shop with data.routes as routes
}

# Z-04
test_missing_permission_is_named if {
	answer := rbac.decision with input as asks(["user"], "DELETE", "/products/7")
		with data.roles as shop
		with data.routes as routes
	answer == {"allow": false, "missing_permissions": ["products.delete"]}
}

# Z-03
test_deny_wins_over_inherited_and_direct if {
	question := object.union(asks(["intern"], "DELETE", "/products/7"), {"principal": {"permissions": ["products.delete"]}})
	answer := rbac.decision with input as question with data.roles as shop with data.routes as routes
	answer.missing_permissions == ["products.delete"]
	rbac.allow with input as asks(["intern"], "POST", "/products") with data.roles as shop with data.routes as routes
}

test_deny_of_a_permission_for_all if {
	not rbac.allow with input as asks(["admin"], "POST", "/products")
		with data.roles as shop
		with data.routes as routes
		with data.deny as ["products.*"]
}

# O-02
test_all_missing_scopes_at_once if {
	answer := rbac.decision with input as asks(["admin"], "GET", "/reports/2026") with data.routes as routes
	answer.missing_scopes == ["reports:read", "billing"]
}

test_scopes_imply_scopes if {
	question := object.union(asks([], "GET", "/reports/2026"), {"principal": {"scopes": ["reports:admin", "billing"]}})
	rbac.allow with input as question
		with data.routes as routes
		with data.scopes as {"reports:admin": ["reports:write"], "reports:write": ["reports:read", "reports:admin"]}
}

test_route_configuration_adds_requirements if {
	question := object.union(asks(["admin"], "GET", "/products"), {"route": {"permission": "extra", "scopes": ["read"]}})
	answer := rbac.decision with input as question with data.roles as shop with data.routes as routes
	answer.missing_permissions == ["extra"]
	answer.missing_scopes == ["read"]
}

test_public_needs_nothing if {
	rbac.allow with input as asks([], "GET", "/public/logo.png") with data.routes as routes
}

# G-09
test_default_deny if {
	not rbac.allow with input as asks(["admin"], "GET", "/elsewhere") with data.roles as shop with data.routes as routes
	not rbac.allow with input as {}
	rbac.decision == {"allow": false} with input as {}
}

test_denied_path_in_any_spelling if {
	every path in ["/internal", "/Internal/x", "/INTERNAL", "/internal/"] {
		answer := rbac.decision with input as asks(["admin"], "GET", path)
			with data.routes as [{"path": "/**", "public": true}]
			with data.deny as [{"path": "/internal/**"}]
		answer.deny == ["/internal/**"]
	}

	# Postern says how the most forgiving server would read the path.
	folded := {"target": {"http": {"method": "GET", "path": "/ｉnternal;v=1/x", "folded": "/internal/x"}}}
	answer := rbac.decision with input as folded
		with data.routes as [{"path": "/**", "public": true}]
		with data.deny as [{"path": "/internal/**"}]
	answer.deny == ["/internal/**"]
	rbac.allow with input as asks([], "GET", "/international")
		with data.routes as [{"path": "/**", "public": true}]
		with data.deny as [{"path": "/internal/**"}]
}

test_cycles_are_harmless if {
	rbac.allow with input as asks(["a"], "GET", "/products")
		with data.routes as routes
		with data.roles as {"a": {"inherits": ["b"]}, "b": {"inherits": ["a"], "permissions": ["products.list"]}}
}

test_a_role_may_grant_paths if {
	roles := {"viewer": [{"methods": ["GET"], "path": "/orders/*"}]}
	rbac.allow with input as asks(["viewer"], "GET", "/orders/7") with data.roles as roles
	not rbac.allow with input as asks(["viewer"], "DELETE", "/orders/7") with data.roles as roles
	not rbac.allow with input as asks(["viewer"], "GET", "/orders/7/items") with data.roles as roles
}

test_actions_need_the_permission_of_their_name if {
	question := {"principal": {"roles": ["clerk"]}, "target": {"action": {"action": "orders.refund"}}}
	rbac.allow with input as question with data.roles as {"clerk": ["orders.*"]}
	not rbac.allow with input as question with data.roles as {"clerk": ["order.*"]}
}

# P-02, P-07: what a token lists counts as long as its user may do it, and not one
# permission more; a deny of the user's roles holds for the token as well.
test_a_narrowed_token_follows_its_user if {
	remove := asks([], "DELETE", "/products/7")
	rbac.allow with input as deleter(remove, ["admin"]) with data.roles as shop with data.routes as routes
	every roles in [["user"], [], ["intern"], ["admin", "intern"]] {
		not rbac.allow with input as deleter(remove, roles) with data.roles as shop with data.routes as routes
	}
	not rbac.allow with input as deleter(asks([], "POST", "/products"), ["admin"])
		with data.roles as shop
		with data.routes as routes
}

# A question by a token that lists one permission of a user with the roles.
deleter(question, roles) := object.union(question, {"principal": {"narrowed": {
	"permissions": ["products.delete"],
	"user_roles": roles,
	"user_permissions": [],
}}})
