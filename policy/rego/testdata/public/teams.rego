# data.teams.allow
package teams

default allow := false

owner := data.owners[input.request.segments[1]]

allow if owner == input.principal.id

allow if owner in below[input.principal.id]

allow if {
	some delegate in data.delegates[owner]
	delegate in {input.principal.id} | {a.id | some a in input.principal.actors}
}

below[boss] := graph.reachable(data.reports, {boss}) - {boss} if some boss, _ in data.reports
