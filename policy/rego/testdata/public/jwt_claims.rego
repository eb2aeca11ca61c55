# data.authz.decision
package authz

claims := input.principal.claims

default decision := {"allow": false, "reason": "insufficient_scope"}

decision := {"allow": true, "headers": {"x-subject": claims.sub}} if {
	trusted
	fresh
	some role in claims.realm_access.roles
	role in data.roles_for[input.request.method]
}

trusted if {
	claims.iss in data.issuers
	"orders" in audience
}

audience := claims.aud if is_array(claims.aud)

audience := [claims.aud] if is_string(claims.aud)

fresh if time.now_ns() / 1000000000 < claims.exp

fresh if not claims.exp
