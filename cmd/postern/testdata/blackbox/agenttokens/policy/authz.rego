# Whoever gets through the routes is allowed, and the service is told what is known.
package postern.authz

decision := {"allow": true, "headers": {"x-seen": json.marshal({
	"id": input.principal.id,
	"tenant": object.get(input.principal, "tenant", ""),
	"kind": input.principal.kind,
	"roles": object.get(input.principal, "roles", []),
	"scopes": object.get(input.principal, "scopes", []),
	"budget": object.get(input.principal, "token_budget", 0),
	"actors": [a.id | some a in object.get(input.principal, "actors", [])],
})}}
