# data.mesh.authz.allow
package mesh.authz

default allow := false

allow if {
	some rule in data.rules
	from(rule)
	to(rule)
	every condition in object.get(rule, "when", []) { holds(condition) }
}

from(rule) if not rule.from

from(rule) if source in rule.from

source := input.peer.id if input.peer.id != "" else := input.attributes.source.principal

to(rule) if {
	input.request.method in object.get(rule, "methods", ["GET"])
	some path in rule.paths
	startswith(input.request.path, path)
}

holds(condition) if value(condition.key) in condition.values

value(key) := input.attributes.request.http.headers[substring(key, 7, -1)] if startswith(key, "header:")

value(key) := input.principal[key] if not startswith(key, "header:")
