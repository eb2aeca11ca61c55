package postern.admin_test

import data.postern.admin

# asks is a question of a caller about one record.
asks(caller, action, owner) := {
	"principal": object.union(
		{
			"id": "me", "kind": "service", "tenant": "", "roles": [], "scopes": [], "permissions": [],
			"method": "api_key", "issuer": "postern", "credential_id": "k1",
		},
		caller,
	),
	"target": {"action": {
		"action": action,
		"resource_type": "credential",
		"resource_id": "k2",
		"properties": object.union({"tenant": "acme", "principal": "ann", "type": "api_key"}, owner),
	}},
}

anybody(roles, tenant) := {"roles": roles, "tenant": tenant}

user(id, method) := {"id": id, "kind": "user", "tenant": "acme", "method": method}

# G-09
test_default_deny if {
	not admin.allow with input as {}
	admin.decision == {"allow": false} with input as {}
	every action in ["credentials.issue", "credentials.get", "tenants.list", "audit.list", "no.such", ""] {
		not admin.allow with input as asks({}, action, {})
		not admin.allow with input as asks(anybody(["admin", "platform-admins", ""], ""), action, {})
	}
}

test_platform_admin_may_do_everything if {
	every tenant in ["", "acme", "*"] {
		every action in ["credentials.issue", "tenants.create", "tenants.delete", "sessions.vouch", "audit.list", "later.added"] {
			answer := admin.decision with input as asks(anybody(["platform-admin"], ""), action, {"tenant": tenant})
			answer == {"allow": true, "dynamic_metadata": {"grants": {"unlimited": true, "wildcard": true}}}
		}
	}
}

# Who can name its own roles in a tenant does not get out of it by that.
test_platform_admin_is_of_the_installation if {
	every action in ["credentials.get", "tenants.create", "tenants.list"] {
		not admin.allow with input as asks(anybody(["platform-admin"], "acme"), action, {})
	}
	not admin.allow with input as asks(anybody(["tenant-admin"], ""), "credentials.issue", {"tenant": ""})
}

test_tenant_admin_stays_in_its_tenant if {
	caller := anybody(["tenant-admin"], "acme")
	every action in ["credentials.issue", "principals.delete", "users.set_password", "sessions.vouch", "tenants.update", "budgets.list"] {
		answer := admin.decision with input as asks(caller, action, {})
		answer.dynamic_metadata.grants == {"unlimited": true, "wildcard": false}
		not admin.allow with input as asks(caller, action, {"tenant": "other"})
		not admin.allow with input as asks(caller, action, {"tenant": ""})
		not admin.allow with input as asks(caller, action, {"tenant": "*"})
	}
	every action in ["tenants.create", "tenants.delete", "later.added"] {
		not admin.allow with input as asks(caller, action, {})
	}
}

test_issuer_grants_no_more_than_it_has if {
	answer := admin.decision with input as asks(anybody(["issuer"], "acme"), "credentials.issue", {})
	answer.dynamic_metadata.grants == {"unlimited": false, "wildcard": false}
	every action in ["credentials.update", "credentials.import", "credentials.enable", "principals.get", "audit.list"] {
		not admin.allow with input as asks(anybody(["issuer"], "acme"), action, {})
	}
	not admin.allow with input as asks(anybody(["issuer"], ""), "credentials.issue", {"tenant": "acme"})
	admin.allow with input as asks(anybody(["issuer"], ""), "credentials.issue", {"tenant": ""})
}

test_auditor_only_reads if {
	every tenant in ["acme", ""] {
		every action in ["credentials.list", "audit.list", "decisions.get", "sessions.get", "budgets.get", "budgets.list"] {
			admin.allow with input as asks(anybody(["auditor"], tenant), action, {})
		}
		every action in ["credentials.issue", "credentials.revoke", "denials.add", "sessions.delete", "users.set_password"] {
			not admin.allow with input as asks(anybody(["auditor"], tenant), action, {})
		}
	}
	not admin.allow with input as asks(anybody(["auditor"], "acme"), "audit.list", {"tenant": "*"})
	admin.allow with input as asks(anybody(["auditor"], ""), "audit.list", {"tenant": "*"})
}

# The rights of one role do not lend weight to another.
test_grants_come_from_the_role_that_allows if {
	roles := {"reader": {"actions": ["audit.list"], "reach": "below", "holders": "anybody", "unlimited": true, "wildcard": true}}
	answer := admin.decision with input as asks(anybody(["issuer", "reader"], "acme"), "credentials.issue", {})
		with data.admin.roles as roles
	answer.dynamic_metadata.grants == {"unlimited": false, "wildcard": false}
}

test_users_look_after_their_own if {
	own := {"principal": "ann", "type": "pat"}
	every action in ["credentials.list", "credentials.issue", "credentials.rotate", "credentials.revoke", "users.set_password", "sessions.delete"] {
		admin.allow with input as asks(user("ann", "session"), action, own)
		not admin.allow with input as asks(user("bob", "session"), action, own)
		not admin.allow with input as asks(user("ann", "session"), action, object.union(own, {"tenant": "other"}))
		not admin.allow with input as asks(object.union(user("ann", "session"), {"kind": "service"}), action, own)
		not admin.allow with input as asks(object.union(user("ann", "jwt"), {"issuer": "https://idp.test"}), action, own)
	}
	not admin.allow with input as asks(user("ann", "session"), "credentials.issue", {"type": "api_key"})
	not admin.allow with input as asks(user("ann", "session"), "credentials.import", own)
	not admin.allow with input as asks(user("ann", "session"), "sessions.vouch", own)
}

# A stolen token must not outlive itself.
test_tokens_make_no_tokens if {
	own := {"principal": "ann", "type": "pat"}
	every action in ["credentials.issue", "credentials.rotate", "users.set_password"] {
		not admin.allow with input as asks(user("ann", "pat"), action, own)
	}
	every action in ["credentials.list", "credentials.revoke", "sessions.list"] {
		admin.allow with input as asks(user("ann", "pat"), action, own)
	}
	itself := asks(object.union(user("ann", "pat"), {"credential_id": "k2"}), "credentials.rotate", own)
	admin.allow with input as itself
	admin.decision.dynamic_metadata.itself with input as itself
}

# Only who may not rotate a token otherwise is told that it must end.
test_rotation_by_others if {
	own := {"principal": "ann", "type": "pat"}
	every caller in [
		user("ann", "session"),
		object.union(user("ann", "session"), {"credential_id": "k2"}),
		object.union(user("ann", "pat"), {"credential_id": "k2", "roles": ["issuer"]}),
		object.union(user("ann", "pat"), {"credential_id": "k2", "permissions": ["postern.credentials.rotate"]}),
	] {
		question := asks(caller, "credentials.rotate", own)
		admin.allow with input as question
		not admin.decision.dynamic_metadata.itself with input as question
	}
}

# P-07: a token of a few scopes does not end its user's sessions and other tokens.
test_scoped_tokens_look_after_themselves if {
	own := {"principal": "ann", "type": "pat"}
	narrow := object.union(user("ann", "pat"), {"scopes": ["orders.read"]})
	every action in ["credentials.list", "credentials.get", "credentials.revoke", "sessions.delete", "principals.get"] {
		not admin.allow with input as asks(narrow, action, own)
		admin.allow with input as asks(object.union(narrow, {"scopes": ["postern.admin"]}), action, own)
	}
	every action in ["credentials.get", "credentials.rotate", "credentials.revoke"] {
		admin.allow with input as asks(object.union(narrow, {"credential_id": "k2"}), action, own)
	}
}

# P-07: a narrow token of an administrator administers nothing.
test_tokens_are_narrow if {
	boss := {"kind": "user", "tenant": "", "roles": ["platform-admin"], "method": "pat"}
	admin.allow with input as asks(boss, "tenants.create", {})
	not admin.allow with input as asks(object.union(boss, {"scopes": ["read"]}), "tenants.create", {})
	admin.allow with input as asks(object.union(boss, {"scopes": ["read", "postern.admin"]}), "tenants.create", {})
}

part(permissions) := {
	"kind": "user", "tenant": "", "roles": [], "method": "pat",
	"narrowed": {"permissions": permissions, "user_roles": ["platform-admin"], "user_permissions": []},
}

# P-07
test_tokens_have_a_part_of_the_rights if {
	not admin.allow with input as asks(part(["orders.read"]), "tenants.create", {})
	not admin.allow with input as asks(part([]), "tenants.create", {})
	answer := admin.decision with input as asks(part(["postern.tenants.*"]), "tenants.create", {})
	answer == {"allow": true, "dynamic_metadata": {"grants": {"unlimited": false, "wildcard": false}}}
	not admin.allow with input as asks(part(["postern.tenants.*"]), "credentials.issue", {})

	own := object.union(part(["orders.read"]), {"id": "ann", "tenant": "acme"})
	not admin.allow with input as asks(own, "credentials.list", {"principal": "ann"})
}

test_permissions_are_of_the_own_tenant if {
	caller := {"tenant": "acme", "permissions": ["postern.sessions.vouch", "postern.credentials.wildcard"]}
	answer := admin.decision with input as asks(caller, "sessions.vouch", {})
	answer.dynamic_metadata.grants == {"unlimited": false, "wildcard": true}
	not admin.allow with input as asks(caller, "sessions.create", {})
	not admin.allow with input as asks(caller, "sessions.vouch", {"tenant": "other"})
	not admin.allow with input as asks({"tenant": "acme", "permissions": ["*", "postern.*"]}, "sessions.vouch", {})
}

test_missing_permission_is_named if {
	answer := admin.decision with input as asks({}, "credentials.issue", {})
	answer == {"allow": false, "missing_permissions": ["postern.credentials.issue"]}
}

test_tables_replace_and_add if {
	tables := {
		"issuer": {},
		"helpdesk": {"actions": ["users.set_password", "sessions.*"], "reach": "tenant", "holders": "tenants"},
	}
	not admin.allow with input as asks(anybody(["issuer"], "acme"), "credentials.issue", {}) with data.admin.roles as tables
	admin.allow with input as asks(anybody(["helpdesk"], "acme"), "sessions.delete", {}) with data.admin.roles as tables
	not admin.allow with input as asks(anybody(["helpdesk"], "acme"), "credentials.get", {}) with data.admin.roles as tables
	admin.allow with input as asks(anybody(["auditor"], "acme"), "credentials.get", {}) with data.admin.roles as tables
}

# "cred*" is no way to write "credentials.*", and "credentials.*" not "credentialsx.y".
test_patterns_end_at_a_dot if {
	tables := {"odd": {"actions": ["cred*", "sessions.*"], "reach": "tenant", "holders": "anybody"}}
	not admin.allow with input as asks(anybody(["odd"], "acme"), "credentials.get", {}) with data.admin.roles as tables
	not admin.allow with input as asks(anybody(["odd"], "acme"), "sessionsx.get", {}) with data.admin.roles as tables
	admin.allow with input as asks(anybody(["odd"], "acme"), "sessions.get", {}) with data.admin.roles as tables
}

# P-07: a token that has lost every scope that it lists is not one without limits.
test_nothing_left if {
	left := object.union(user("ann", "pat"), {"scopes": [], "narrowed": {"permissions": [], "user_roles": [], "user_permissions": []}})
	every action in ["credentials.list", "credentials.revoke", "sessions.delete", "principals.get", "credentials.rotate"] {
		not admin.allow with input as asks(object.union(left, {"credential_id": "k2"}), action, {"principal": "ann", "type": "pat"})
	}
}

agent_actions := [
	"agents.create", "agents.get", "agents.list", "agents.update", "agents.disable", "agents.enable",
	"agents.decommission",
]

# A-06, A-11: a tenant looks after its own agents, and who may only look does only that.
test_agents_are_their_tenants if {
	boss := anybody(["tenant-admin"], "acme")
	every action in agent_actions {
		answer := admin.decision with input as asks(boss, action, {})
		answer.dynamic_metadata.grants == {"unlimited": true, "wildcard": false}
		not admin.allow with input as asks(boss, action, {"tenant": "other"})
		not admin.allow with input as asks(boss, action, {"tenant": ""})
		not admin.allow with input as asks(boss, action, {"tenant": "*"})
		not admin.allow with input as asks(anybody(["issuer"], "acme"), action, {})
		not admin.allow with input as asks(user("ann", "session"), action, {"principal": "ann"})
		looks := action in ["agents.get", "agents.list"]
		looks == may_look(action)
	}
}

may_look(action) if admin.allow with input as asks(anybody(["auditor"], "acme"), action, {})

may_look(action) := false if not admin.allow with input as asks(anybody(["auditor"], "acme"), action, {})

# A-06: an agent manages no agents, its own children and itself included, unless somebody
# gave it the permission; then in its tenant only, and what it has itself.
test_agents_manage_no_agents if {
	bot := {"id": "bot", "kind": "agent", "tenant": "acme"}
	every action in agent_actions {
		not admin.allow with input as asks(bot, action, {"principal": "bot"})
	}
	parent := object.union(bot, {"permissions": ["postern.agents.create"]})
	answer := admin.decision with input as asks(parent, "agents.create", {"principal": "child"})
	answer.dynamic_metadata.grants == {"unlimited": false, "wildcard": false}
	not admin.allow with input as asks(parent, "agents.create", {"tenant": "other"})
	not admin.allow with input as asks(parent, "agents.decommission", {"principal": "child"})
	not admin.allow with input as asks(parent, "agents.bind", {"principal": "child"})
}

# A-06: that an agent is a workload, which anybody can name, only the installation says, or
# whom it lets.
test_only_the_installation_binds_agents if {
	admin.allow with input as asks(anybody(["platform-admin"], ""), "agents.bind", {})
	not admin.allow with input as asks(anybody(["tenant-admin"], "acme"), "agents.bind", {})
	not admin.allow with input as asks(anybody(["platform-admin"], "acme"), "agents.bind", {})
	tables := {"binder": {"actions": ["agents.bind"], "reach": "tenant", "holders": "tenants"}}
	admin.allow with input as asks(anybody(["binder"], "acme"), "agents.bind", {}) with data.admin.roles as tables
	not admin.allow with input as asks(anybody(["binder"], "acme"), "agents.bind", {"tenant": "other"}) with data.admin.roles as tables
}

# A-14: who asks for an approval asks for its own, and who approves has a role for it.
test_everybody_asks_for_their_own_approval if {
	bot := {"id": "bot", "kind": "agent", "tenant": "acme", "issuer": "postern", "method": "api_key"}
	every action in ["approvals.request", "approvals.get", "approvals.withdraw"] {
		admin.allow with input as asks(bot, action, {"principal": "bot"})
		not admin.allow with input as asks(bot, action, {"principal": "other"})
		not admin.allow with input as asks(bot, action, {"principal": ""})
		not admin.allow with input as asks(bot, action, {"tenant": "other", "principal": "bot"})
		not admin.allow with input as asks(object.union(bot, {"issuer": "https://idp.test"}), action, {"principal": "bot"})
	}
	not admin.allow with input as asks(bot, "approvals.approve", {"principal": "bot"})
	not admin.allow with input as asks(bot, "approvals.list", {"principal": "bot"})
}

# A-14: an agent asks by the token by which it would act, for itself and nobody else,
# whatever roles are in the token.
test_agents_ask_by_their_token_for_themselves if {
	bot := {
		"id": "ann", "kind": "user", "tenant": "acme", "issuer": "postern", "method": "agent",
		"roles": ["tenant-admin", "auditor"], "permissions": ["postern.approvals.withdraw"],
	}
	every action in ["approvals.request", "approvals.get", "approvals.withdraw"] {
		admin.allow with input as asks(bot, action, {"principal": "ann"})
		not admin.allow with input as asks(bot, action, {"principal": "bob"})
	}
}

# A-07: by the token of a user an agent makes nothing that outlives it, and in which it is
# not named.
test_who_acts_for_a_user_leaves_nothing_behind if {
	through := {
		"id": "ann", "kind": "user", "tenant": "acme", "issuer": "postern", "method": "agent",
		"scopes": ["postern.admin"], "actors": [{"id": "bot", "kind": "agent"}],
	}
	every action in ["credentials.issue", "credentials.rotate", "sessions.rotate", "users.set_password", "consents.grant"] {
		admin.allow with input as asks(user("ann", "session"), action, {"principal": "ann", "type": "pat"})
		not admin.allow with input as asks(through, action, {"principal": "ann", "type": "pat"})
	}
	admin.allow with input as asks(through, "credentials.list", {"principal": "ann"})
}

# A-14
test_approvers_stay_in_their_tenant if {
	every action in ["approvals.approve", "approvals.deny", "approvals.get", "approvals.list"] {
		admin.allow with input as asks(anybody(["approver"], "acme"), action, {"principal": "bot"})
		not admin.allow with input as asks(anybody(["approver"], "acme"), action, {"tenant": "other"})
		not admin.allow with input as asks(anybody(["issuer"], "acme"), action, {})
	}
	not admin.allow with input as asks(anybody(["approver"], "acme"), "approvals.request", {"principal": "bot"})
	not admin.allow with input as asks(anybody(["auditor"], "acme"), "approvals.approve", {"principal": "bot"})
}

# A-13: users look after their own consents; a token that they keep can only end them.
test_users_consent_for_themselves if {
	every action in ["consents.grant", "consents.withdraw", "consents.get", "consents.list"] {
		admin.allow with input as asks(user("ann", "session"), action, {"principal": "ann"})
		not admin.allow with input as asks(user("ann", "session"), action, {"principal": "bob"})
		not admin.allow with input as asks(user("ann", "session"), action, {"tenant": "other", "principal": "ann"})
	}
	not admin.allow with input as asks(user("ann", "pat"), "consents.grant", {"principal": "ann"})
	admin.allow with input as asks(user("ann", "pat"), "consents.withdraw", {"principal": "ann"})
}
