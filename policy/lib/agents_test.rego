package postern.lib.agents_test

import data.postern.lib.agents

table := {
	"tools": {
		"search": {},
		"orders.refund": {"scopes": ["orders.write"], "limits": {"amount": 100}},
		"mail.send": {"delegated": true},
		"deploy": {"peers": ["spiffe://prod/sandbox/", "spiffe://prod/ci"]},
	},
	"grants": {"support": ["search", "orders.*", "mail.send", "unknown"], "operator": ["*"]},
}

calls(tool, arguments) := {
	"principal": {"id": "bot", "kind": "agent", "roles": ["support"], "scopes": ["orders.write"], "actors": []},
	"request": {"segments": ["mcp"]},
	"parsed_body": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}},
}

acts(action, properties) := {
	"principal": {"id": "bot", "kind": "agent", "roles": ["support"], "scopes": ["orders.write"], "actors": []},
	"target": {"action": {"action": action, "properties": properties}},
}

# The same call, read before.
reads(tool, arguments) := {
	"principal": {"id": "bot", "kind": "agent", "roles": ["support"], "scopes": ["orders.write"], "actors": []},
	"request": {"segments": ["tools"]},
	"target": {"protocol": "mcp", "method": "tools/call", "tools": [{"name": tool, "arguments": arguments}], "resources": []},
}

decides(question) := d if d := agents.decision with input as question with data.agents as table

# A-19 A-08
test_a_tool_is_granted_by_a_role if {
	decides(calls("search", {})).allow
	decides(acts("search", {})).allow
	decides(reads("search", {})).allow
	decides(calls("orders.refund", {"amount": 100})).allow
	decides(reads("orders.refund", {"amount": 100})).allow
	decides(acts("orders.refund", {"amount": 100})).allow
}

# A-08
test_what_is_not_granted_is_denied if {
	every tool in ["deploy", "unknown", "orders", "Search", "orders.refund2", ""] {
		not decides(calls(tool, {})).allow
		not decides(acts(tool, {})).allow
		not decides(reads(tool, {})).allow
	}
	decides(reads("deploy", {})).reason == "tool_denied"
	"the tool is not granted" in decides(calls("deploy", {})).deny
	not agents.decision.allow with input as calls("search", {})
}

# A-08
test_a_tool_without_an_entry_is_nobodys if {
	question := object.union(calls("unknown", {}), {"principal": {"roles": ["operator"]}})
	not decides(question).allow
}

# A-12 A-18
test_scopes_that_a_tool_needs if {
	question := object.union(calls("orders.refund", {}), {"principal": {"scopes": []}})
	answer := decides(question)
	not answer.allow
	answer.missing_scopes == {"orders.write"}
}

# A-08
test_arguments_have_limits if {
	every amount in [101, 1e100, "1", null, true, [1], {}] {
		not decides(calls("orders.refund", {"amount": amount})).allow
		not decides(acts("orders.refund", {"amount": amount})).allow
		not decides(reads("orders.refund", {"amount": amount})).allow
	}
	not decides(calls("orders.refund", [101])).allow
	not decides(calls("orders.refund", "amount=1")).allow
	decides(calls("orders.refund", {})).allow
}

# A-08
test_a_credential_has_a_list_of_its_own if {
	every own in [["search"], ["sea.*", "search"], ["*"]] {
		decides(object.union(reads("search", {}), {"principal": {"metadata": {"tools": own}}})).allow
	}
	every own in [[], ["orders.*"], ["Search"], ["search.*"], "search", "*", {"search": true}, null, [["search"]]] {
		answer := decides(object.union(reads("search", {}), {"principal": {"metadata": {"tools": own}}}))
		not answer.allow
		answer.reason == "tool_denied"
	}
}

# A-08
test_a_changed_schema_is_noticed if {
	pinned := object.union(table, {"tools": {"search": {"schema": "ab12"}}})
	every schema, may in {"ab12": true, "ab13": false, "AB12": false, "": false} {
		question := json.patch(reads("search", {}), [{"op": "add", "path": "/target/tools/0/schema", "value": schema}])
		answer := agents.decision with input as question with data.agents as pinned
		answer.allow == may
	}
	silent := agents.decision with input as reads("search", {}) with data.agents as pinned
	not silent.allow
	silent.reason == "tool_denied"
	unread := agents.decision with input as calls("search", {}) with data.agents as pinned
	not unread.allow
}

# A-18
test_what_an_agent_is_told if {
	question := object.union(reads("orders.refund", {}), {"principal": {"scopes": []}})
	decides(question).message == "Agent bot lacks scope: orders.write"
}

# A-07
test_chains_are_short if {
	actor := {"id": "x", "kind": "agent"}
	question := object.union(calls("search", {}), {"principal": {"actors": [actor, actor, actor]}})
	decides(question).allow
	longer := object.union(calls("search", {}), {"principal": {"actors": [actor, actor, actor, actor]}})
	not decides(longer).allow
	not agents.decision.allow with input as question with data.agents as object.union(table, {"depth": 2})
}

# A-13
test_some_tools_need_a_user_behind_the_agent if {
	not decides(calls("mail.send", {})).allow
	for_ann := {"principal": {"id": "ann", "kind": "user", "actors": [{"id": "bot", "kind": "agent"}]}}
	decides(object.union(calls("mail.send", {}), for_ann)).allow
	alone := {"principal": {"id": "ann", "kind": "user"}}
	not decides(object.union(calls("mail.send", {}), alone)).allow
}

# A-15
test_some_tools_need_a_sandbox if {
	question := object.union(calls("deploy", {}), {"principal": {"roles": ["operator"]}})
	not decides(question).allow
	every id in ["spiffe://prod/sandbox/7", "spiffe://prod/ci"] {
		decides(object.union(question, {"peer": {"id": id}})).allow
	}
	every id in ["spiffe://prod/sandboxes/7", "spiffe://prod/ci2", "spiffe://prod/ci/", "", "spiffe://prod/sandbox"] {
		not decides(object.union(question, {"peer": {"id": id}})).allow
	}
}

test_other_messages_of_mcp if {
	decides(json.patch(calls("search", {}), [{"op": "replace", "path": "/parsed_body/method", "value": "tools/list"}])).allow
}

test_messages_that_were_read if {
	every message in [{"method": "tools/list", "tools": []}, {"tools": []}, {"method": "notifications/initialized", "tools": []}] {
		decides({"principal": {"roles": []}, "target": object.union({"protocol": "mcp"}, message)}).allow
	}
	not decides({"principal": {"roles": ["support"]}, "target": {"protocol": "mcp", "method": "tools/call", "tools": []}}).allow
}

test_what_cannot_be_read_is_denied if {
	every body in [null, [], "", 7, {}, {"method": null}, {"method": ["tools/call"]}, [{"method": "tools/call"}]] {
		question := json.patch(calls("search", {}), [{"op": "replace", "path": "/parsed_body", "value": body}])
		answer := decides(question)
		not answer.allow
		"the request cannot be read as one call" in answer.deny
	}
}

test_other_requests_are_not_decided_here if {
	elsewhere := {"principal": {"roles": ["support"]}, "request": {"segments": ["orders", "7"]}, "parsed_body": {"amount": 1}}
	not decides(elsewhere)
	not agents.applies with input as elsewhere
}
