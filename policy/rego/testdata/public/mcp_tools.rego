# data.mcp.decision
package mcp

call := input.parsed_body

tool := call.params.name

decision := {"allow": true} if call.method in {"initialize", "tools/list", "ping"}

decision := {"allow": true, "obligations": [{"type": "log", "parameters": {"tool": tool}}]} if {
	call.method == "tools/call"
	allowed[tool]
	not too_much
}

decision := {"allow": false, "missing_permissions": [sprintf("tool.%s", [tool])]} if {
	call.method == "tools/call"
	not allowed[tool]
}

allowed[name] if {
	some role in input.principal.roles
	some name in data.tools[role]
	every scope in object.get(data.needs, name, []) { scope in input.principal.scopes }
}

too_much if call.params.arguments.amount > object.get(data.most, tool, 1000)
