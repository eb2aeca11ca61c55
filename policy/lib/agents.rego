# METADATA
# title: What agents may do
# description: |
#   Agents call tools: an MCP server's by a request that says `tools/call`, others as
#   an action of that name. What is not granted is denied. One table, data.agents:
#
#     tools   name → what a call needs: {scopes, delegated, peers, limits}. A tool that is
#             not here can be called by nobody.
#               scopes     the caller's credential has all of them
#               delegated  true: the agent acts for a user, who is the principal then;
#                          a key of the agent's own is not enough
#               peers      the workload that calls is one of these, or below one that
#                          ends in "/", as in spiffe://prod/sandbox/
#               limits     argument → the largest number that it may have
#     grants  role → the tools that it may call; "*" is all, "orders.*" those that
#             begin so
#     depth   how many may act for one another, 3 if it is left out
#
#   An MCP request that cannot be read is denied, and so is one with several calls in
#   it. Requests that call no tool are not decided here: `applies` says so.
package postern.lib.agents

# The whole decision, for requests that call a tool.
decision := {"allow": allow, "deny": deny, "missing_scopes": missing_scopes} if applies

default applies := false

applies if is_mcp

applies if input.target.action.action

default allow := false

allow if {
	granted
	count(deny) == 0
	count(missing_scopes) == 0
}

default settings := {}

settings := data.agents

tools := object.get(settings, "tools", {})

# A request is MCP's if it says so, in its path or by what its body is.
is_mcp if input.parsed_body.jsonrpc

is_mcp if "mcp" in input.request.segments

default tool := ""

tool := input.target.action.action

tool := input.parsed_body.params.name if {
	not input.target.action
	method == "tools/call"
}

# A rule of its own, because `not is_string(x)` has no answer where there is no x.
method := input.parsed_body.method if is_string(input.parsed_body.method)

needs := object.get(tools, tool, {})

granted if {
	some role in input.principal.roles
	some pattern in object.get(object.get(settings, "grants", {}), role, [])
	covers(pattern, tool)
	tools[tool]
}

# What an MCP client says besides calling tools.
granted if {
	not input.target.action
	method != "tools/call"
}

covers(pattern, name) if pattern == name

covers("*", _)

covers(pattern, name) if {
	endswith(pattern, ".*")
	startswith(name, trim_suffix(pattern, "*"))
}

missing_scopes contains scope if {
	some scope in object.get(needs, "scopes", [])
	not scope in object.get(input, ["principal", "scopes"], [])
}

deny contains "the request cannot be read as one call" if {
	not input.target.action
	not method
}

deny contains "the tool is not granted" if {
	tool != ""
	not granted
}

deny contains "too many act for one another" if count(object.get(input, ["principal", "actors"], [])) > object.get(settings, "depth", 3)

deny contains "the tool is for agents that act for a user" if {
	needs.delegated
	not for_user
}

for_user if {
	input.principal.kind == "user"
	some actor in input.principal.actors
	actor.kind == "agent"
}

deny contains "the tool is not for this workload" if {
	needs.peers
	not from_peer
}

from_peer if {
	some peer in needs.peers
	is_from(peer)
}

is_from(peer) if input.peer.id == peer

is_from(peer) if {
	endswith(peer, "/")
	startswith(input.peer.id, peer)
}

deny contains message if {
	some argument, most in object.get(needs, "limits", {})
	not within(argument, most)
	message := sprintf("%s is over its limit", [argument])
}

# An argument that is not there is not over its limit; one that is no number is.
within(argument, most) if {
	value := arguments[argument]
	is_number(value)
	value <= most
}

within(argument, _) if {
	is_object(arguments)
	not argument in object.keys(arguments)
}

default arguments := {}

arguments := input.parsed_body.params.arguments if not input.target.action

arguments := input.target.action.properties
