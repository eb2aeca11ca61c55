package postern.lib.cases_test

import data.postern.lib.cases

table := {"code": {"attested": ["spiffe://prod/sandbox/"]}}

question(name, principal, more) := object.union(
	{
		"route": {"name": name, "labels": {"case": name}},
		"principal": object.union({"id": "ann", "tenant": "acme", "kind": "user", "roles": [], "actors": []}, principal),
	},
	more,
)

public_data := question("public_data", {"kind": "service", "method": "api_key", "scopes": ["data:read"]}, {})

user_data := question(
	"user_data",
	{"method": "oauth", "scopes": ["data:write"], "actors": [{"id": "bot", "kind": "agent"}]},
	{"agreement": {"consent": "c1", "scopes": ["data:write"]}},
)

approval := {"id": "a1", "approver": "acme/boss", "kind": "user", "roles": ["tenant-admin"], "action": "0123"}

external_call := question(
	"external_call",
	{"method": "oauth", "scopes": ["external:invoke"]},
	{"peer": {"id": "spiffe://prod/bot", "trust_domain": "prod"}, "agreement": {"scopes": [], "approval": approval}},
)

code := question(
	"code",
	{"kind": "agent", "method": "jwt", "scopes": ["exec:sandbox"]},
	{"peer": {"id": "spiffe://prod/sandbox/7", "trust_domain": "prod"}, "agreement": {"scopes": [], "approval": approval}},
)

decides(q) := d if d := cases.decision with input as q with data.cases as table

reason(q) := d.reason if {
	d := decides(q)
	not d.allow
}

without(q, paths) := json.remove(q, paths)

changed(q, path, value) := json.patch(q, [{"op": "replace", "path": path, "value": value}])

# A-12 A-13 A-14 A-15
test_each_case_is_allowed if {
	every q in [public_data, user_data, external_call, code] {
		decides(q).allow
		not decides(q).reason
	}
}

# A-12
test_public_data_needs_the_scope if {
	d := decides(changed(public_data, "/principal/scopes", ["data:write"]))
	not d.allow
	d.reason == "insufficient_scope"
	d.missing_scopes == {"data:read"}
}

# A-12
test_public_data_is_for_keys if {
	d := decides(changed(public_data, "/principal/method", "session"))
	d.reason == "method_not_accepted"
	d.http_status == 403
}

# A-13
test_user_data_is_not_for_keys if {
	q := changed(user_data, "/principal/method", "api_key")
	reason(q) == "method_not_accepted"
	decides(q).http_status == 403
}

# A-13
test_user_data_needs_a_user_and_who_acts if {
	reason(changed(user_data, "/principal/actors", [])) == "delegation_denied"
	reason(changed(user_data, "/principal/kind", "agent")) == "delegation_denied"
}

# A-13
test_user_data_needs_the_users_consent if {
	every q in [
		without(user_data, ["agreement"]),
		without(user_data, ["agreement/consent"]),
		without(user_data, ["agreement/scopes"]),
		changed(user_data, "/agreement/scopes", ["data:read"]),
	] {
		reason(q) == "consent_required"
	}
}

# A-14
test_each_missing_part_has_its_reason if {
	reason(changed(external_call, "/principal/method", "api_key")) == "method_not_accepted"
	reason(without(external_call, ["peer"])) == "attestation_required"
	reason(changed(external_call, "/principal/scopes", [])) == "insufficient_scope"
	reason(without(external_call, ["agreement/approval"])) == "approval_required"
	reason(without(external_call, ["agreement"])) == "approval_required"
}

# A-14
test_a_human_approves if {
	every kind in ["agent", "service", "", "anonymous"] {
		reason(changed(external_call, "/agreement/approval/kind", kind)) == "approval_required"
	}
	reason(changed(external_call, "/agreement/approval/approver", "acme/ann")) == "approval_required"
}

# A-15
test_code_runs_in_a_sandbox if {
	every id in ["spiffe://prod/bot", "spiffe://prod/sandbox/", "spiffe://prod/sandbox", "spiffe://prod/sandbox2/7"] {
		reason(changed(code, "/peer/id", id)) == "attestation_required"
	}
	reason(changed(code, "/peer/trust_domain", "")) == "attestation_required"
	reason(without(code, ["peer"])) == "attestation_required"
}

# A-15
test_no_sandbox_is_known_by_itself if {
	d := cases.decision with input as code
	d.reason == "attestation_required"
}

# A-15
test_an_administrator_approves if {
	every roles in [[], ["clerk"], ["admin"]] {
		reason(changed(code, "/agreement/approval/roles", roles)) == "approval_required"
	}
}

# A-15
test_code_is_not_for_keys if {
	reason(changed(code, "/principal/method", "api_key")) == "method_not_accepted"
	reason(changed(code, "/principal/scopes", ["data:read", "data:write"])) == "insufficient_scope"
}

# A-19
test_no_case_is_a_deny if {
	every label in ["", "public", "toString", "code2"] {
		d := decides(changed(public_data, "/route/labels/case", label))
		not d.allow
	}
}

# A-19
test_other_routes_are_not_decided_here if {
	not cases.applies with input as {"route": {"name": "x", "labels": {}}, "principal": {}}
	not cases.decision with input as {"route": {"name": "x"}, "principal": {}}
}

# A-19
test_a_table_changes_a_case if {
	narrow := {"public_data": {"methods": ["jwt"]}, "own": {"methods": ["jwt"], "scopes": ["x"]}}
	d := cases.decision with input as public_data with data.cases as narrow
	d.reason == "method_not_accepted"
	own := question("own", {"method": "jwt", "scopes": ["x"]}, {})
	e := cases.decision with input as own with data.cases as narrow
	e.allow
	f := cases.decision with input as own with data.cases as {"own": {}}
	not f.allow
}

# A-19
test_what_says_nothing_is_denied if {
	every label in ["public_data", "user_data", "external_call", "code"] {
		d := decides({"route": {"labels": {"case": label}}})
		not d.allow
	}
}
