# METADATA
# title: The four standard cases of what agents do
# description: |
#   What an agent does is one of four cases, and each takes a credential of its own, a
#   scope, and somebody's consent. A route says by its label `case` which one it is:
#
#     case           credential                        scope            who has to agree
#     public_data    an API key                        data:read        nobody
#     user_data      a user's token that names who     data:write       the user
#                    acts
#     external_call  a token of an issuer, and the     external:invoke  a human
#                    client's certificate
#     code           a signed token, in a sandbox      exec:sandbox     an administrator
#                    that proves what it is
#
#   Routes ask for most of this before any policy does (`delegated`, `consents`, `all_of`,
#   `approval`, `attested`, `audit_first`), and no policy can lift that. This asks for all
#   of it once more, so that a route that forgot a demand is still closed; that approvals
#   are for one action and one use only the route can see to. A table, data.cases, changes
#   fields of a case, or adds one:
#
#     methods      how the caller proved who it is, one of these
#     scopes       the credential has all of them
#     delegated    true: a user's token, by which somebody acts for the user
#     consents     the user has consented to them for whoever acts
#     peer         true: the client has shown a certificate
#     attested     the peer is one of these workloads, or below one that ends in "/", as
#                  in spiffe://prod/sandbox/; code has none unless the table says which
#     approval     "human" or "admin": somebody has approved the request
#     admin_roles  the roles of an administrator, for approval: admin
#
#   A route with a label that is no case is denied. One without is not decided here:
#   `applies` says so.
package postern.lib.cases

# The whole decision, for routes that are one of the cases.
decision := object.union(
	{"allow": allow, "missing_scopes": missing_scopes},
	object.union(refusal, status),
) if {
	applies
}

default applies := false

applies if input.route.labels.case

default allow := false

allow if {
	needs
	count(lacks) == 0
}

standard := {
	"public_data": {"methods": ["api_key"], "scopes": ["data:read"]},
	"user_data": {
		"methods": ["oauth", "jwt", "agent"],
		"scopes": ["data:write"],
		"delegated": true,
		"consents": ["data:write"],
	},
	"external_call": {
		"methods": ["oauth", "jwt", "agent"],
		"scopes": ["external:invoke"],
		"peer": true,
		"approval": "human",
	},
	"code": {
		"methods": ["jwt", "jwt_svid", "workload", "agent"],
		"scopes": ["exec:sandbox"],
		"attested": [],
		"approval": "admin",
		"admin_roles": ["platform-admin", "tenant-admin"],
	},
}

default custom := {}

custom := data.cases

name := input.route.labels.case

# Only a name that one of the tables has is a case.
needs := object.union(object.get(standard, name, {}), object.get(custom, name, {})) if known

known if standard[name]

known if custom[name]

# What is missing, in the order in which it is told.
order := [
	"method_not_accepted", "delegation_denied", "attestation_required",
	"insufficient_scope", "consent_required", "approval_required",
]

default refusal := {}

refusal := {"reason": reason} if not allow

default reason := "policy_denied"

reason := [r | some r in order; r in lacks][0]

# The caller is known, and may come with something else: that is no 401.
default status := {}

status := {"http_status": 403} if {
	not allow
	reason == "method_not_accepted"
}

lacks contains "method_not_accepted" if not by_method

# A rule of its own, because `not x in y` has no answer where there is no x or y.
by_method if input.principal.method in needs.methods

lacks contains "delegation_denied" if {
	object.get(needs, "delegated", false)
	not acted
}

lacks contains "attestation_required" if {
	object.get(needs, "peer", false)
	not input.peer.id
}

lacks contains "attestation_required" if {
	needs.attested
	not from_workload
}

lacks contains "insufficient_scope" if count(missing_scopes) > 0

lacks contains "consent_required" if {
	some scope in object.get(needs, "consents", [])
	not scope in object.get(input, ["agreement", "scopes"], [])
}

lacks contains "consent_required" if {
	needs.consents
	not input.agreement.consent
}

lacks contains "approval_required" if {
	needs.approval
	not approved
}

default missing_scopes := set()

missing_scopes := {scope |
	some scope in needs.scopes
	not scope in object.get(input, ["principal", "scopes"], [])
}

acted if {
	input.principal.kind == "user"
	count(input.principal.actors) > 0
}

from_workload if {
	some workload in needs.attested
	is_below(workload)
}

is_below(workload) if {
	not endswith(workload, "/")
	input.peer.id == workload
}

is_below(workload) if {
	endswith(workload, "/")
	startswith(input.peer.id, workload)
	input.peer.id != workload
	input.peer.trust_domain != ""
}

# Somebody who is a user approved, and not the one who asks.
approved if {
	by_a_person
	needs.approval == "human"
}

approved if {
	by_a_person
	needs.approval == "admin"
	some role in input.agreement.approval.roles
	role in needs.admin_roles
}

by_a_person if {
	input.agreement.approval.kind == "user"
	input.agreement.approval.approver != sprintf("%s/%s", [input.principal.tenant, input.principal.id])
}
