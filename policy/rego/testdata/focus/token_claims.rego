# Decides from the claims of a bearer token that it reads itself, for a route that
# is named by the first segments of the path.
package token.authz

bearer := substring(header, 7, -1) if {
	header := input.attributes.request.http.headers.authorization
	startswith(lower(header), "bearer ")
}

claims := payload if [_, payload, _] := io.jwt.decode(bearer)

route := data.routes[input.parsed_path[0]]

scopes := {s | some s in split(claims.scope, " ")}

audience(aud) := {aud} if is_string(aud)

audience(aud) := {a | some a in aud} if is_array(aud)

live if {
	now := time.now_ns() / 1000000000
	object.get(claims, "nbf", 0) <= now
	now < claims.exp
}

verb := {"GET": "read", "POST": "write"}[input.attributes.request.http.method]

default allow := false

allow if {
	live
	count(audience(claims.aud) & {route.audience}) > 0
	$"{input.parsed_path[0]}:{verb}" in scopes
	not revoked[claims.jti]
}

# A break-glass header opens everything while the flag is set.
allow if {
	data.break_glass
	input.attributes.request.http.headers["x-break-glass"] == data.break_glass
}

revoked contains jti if some jti in data.revoked
