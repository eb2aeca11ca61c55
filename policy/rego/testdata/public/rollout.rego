# data.rollout.decision
package rollout

decision := {"allow": allow, "headers": {"x-variant": variant}, "response_headers_to_add": {"vary": "x-beta"}}

default allow := true

allow := false if {
	input.request.segments[0] == "beta"
	variant != "new"
}

default variant := "old"

variant := "new" if bucket < share

variant := "new" if input.attributes.request.http.headers["x-beta"] == "1"

bucket := (to_number(concat("", ["0", substring(hash, 0, n)])) * 7) % 10 if {
	some n in [1]
	regex.match("^[0-9]", hash)
} else := 9

hash := crypto.sha256(concat(":", [input.principal.tenant, input.principal.id]))

share := object.get(object.get(data.shares, input.principal.tenant, {}), "percent", 5)
