# METADATA
# title: What agents may do
# description: |
#   Agents call tools: an MCP server's by a request that says `tools/call`, others as
#   an action of that name. What is not granted is denied. One table, data.agents:
#
#     tools   name → what a call needs: {scopes, delegated, peers, limits, schema}. A tool
#             that is not here can be called by nobody.
#               scopes     the caller's credential has all of them
#               delegated  true: the agent acts for a user, who is the principal then;
#                          a key of the agent's own is not enough
#               peers      the workload that calls is one of these, or below one that
#                          ends in "/", as in spiffe://prod/sandbox/
#               limits     argument → the largest number that it may have
#               schema     the SHA-256 of the tool's schema as it was looked at; the caller
#                          says which it knows, and only routes that read MCP hear it
#     grants  role → the tools that it may call; "*" is all, "orders.*" those that
#             begin so
#     depth   how many may act for one another, 3 if it is left out
#
#   A credential with a list `tools` in its metadata is for these alone, whatever its
#   roles grant. (The list of a registered agent counts before any policy is asked.)
#
#   Routes with `reads: mcp` know the call (input.target); on others it is read from the
#   body here. An MCP request that cannot be read is denied, and so is one with several
#   calls in it. Requests that call no tool are not decided here: `applies` says so.
package postern.lib.agents

# The whole decision, for requests that call a tool.
decision := {
	"allow": allow,
	"deny": deny,
	"reason": reason,
	"message": message,
	"missing_scopes": missing_scopes,
} if {
	applies
}

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

# A request is MCP's if its route or its path says so, or by what its body is.
is_mcp if is_read

is_mcp if input.parsed_body.jsonrpc

is_mcp if "mcp" in input.request.segments

# The message was read before.
is_read if input.target.protocol == "mcp"

default tool := ""

tool := input.target.action.action

tool := input.target.tools[0].name if is_read

tool := input.parsed_body.params.name if {
	not is_read
	not input.target.action
	method == "tools/call"
}

method := input.target.method if is_read

# What opens a stream, ends a session or answers the server has no method.
method := "" if {
	is_read
	not input.target.method
}

# A rule of its own, because `not is_string(x)` has no answer where there is no x.
method := input.parsed_body.method if {
	not is_read
	is_string(input.parsed_body.method)
}

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

deny contains "the tool is not granted" if not_granted

not_granted if {
	tool != ""
	not granted
}

deny contains "the tool is not on the credential's own list" if not_listed

not_listed if {
	tool != ""
	own := input.principal.metadata.tools
	not on(own, tool)
}

on(list, name) if {
	is_array(list)
	some pattern in list
	is_string(pattern)
	covers(pattern, name)
}

deny contains "the schema of the tool is not the one that was looked at" if changed

changed if {
	needs.schema
	not needs.schema == input.target.tools[0].schema
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

arguments := input.target.tools[0].arguments if is_read

arguments := input.parsed_body.params.arguments if {
	not is_read
	not input.target.action
}

arguments := input.target.action.properties

default reason := ""

reason := "tool_denied" if not_granted

reason := "tool_denied" if not_listed

reason := "tool_denied" if changed

# What an agent is told of its scopes is the same everywhere.
default message := ""

message := sprintf("Agent %s lacks scope: %s", [input.principal.id, concat(" ", sort(missing_scopes))]) if {
	input.principal.kind == "agent"
	count(deny) == 0
	count(missing_scopes) > 0
}
