# data.delegation.decision
package delegation

decision := {"allow": allow, "message": reason}

default allow := false

allow if {
	count(chain) <= 3
	every link in chain { link.kind in data.kinds }
	not forbidden
}

chain := array.concat([{"id": input.principal.id, "kind": input.principal.kind}], input.principal.actors)

forbidden if {
	walk(input.principal.claims, [path, value])
	value == "forbidden"
	path[0] != "notes"
}

reason := sprintf("%d in the chain", [count(chain)]) if allow else := "the chain is not accepted"
