package postern.authz

# Whoever gets as far as this may, and the upstream is told what the policy sees.
decision := {"allow": true, "headers": {"x-seen": json.marshal({
	"id": object.get(input.principal, "id", ""),
	"kind": object.get(input.principal, "kind", ""),
	"tenant": object.get(input.principal, "tenant", ""),
	"assurance": object.get(input.principal, "assurance", 0),
	"acr": object.get(input.principal, "acr", ""),
	"amr": object.get(input.principal, "amr", []),
	"roles": object.get(input.principal, "roles", []),
	"scopes": object.get(input.principal, "scopes", []),
	"actors": object.get(input.principal, "actors", []),
	"metadata": object.get(input.principal, "metadata", {}),
	"zones": input.request.zones,
	"peer": object.get(input, ["peer", "id"], ""),
})}}
