# data.envoy.authz.allow
package envoy.authz

import input.attributes.request.http as request

default allow := false

allow if {
	some role in roles
	some grant in data.grants[role]
	grant.method == request.method
	matches(grant.path)
}

allow if request.path == "/healthz"

roles contains role if some role in split(object.get(request.headers, "x-roles", ""), ",")

matches(pattern) if glob.match(pattern, ["/"], concat("/", array.concat([""], input.parsed_path)))
