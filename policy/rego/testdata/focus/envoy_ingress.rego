# Ingress RBAC as policies for Envoy are written: aliases of the HTTP request, a
# basic credential in a header, permissions by role, and an object for an answer.
package envoy.authz

import input.attributes.request.http as http

default allow := false

user := name if {
	[kind, encoded] := split(http.headers.authorization, " ")
	lower(kind) == "basic"
	[name, _] := split(base64.decode(encoded), ":")
}

roles := data.users[user].roles

allow if http.path == "/healthz"

allow if {
	some role in roles
	some grant in data.grants[role]
	grant.method == http.method
	glob.match(grant.path, ["/"], http.path)
	not frozen
}

allow if {
	input.parsed_path[0] == "public"
	http.method in {"GET", "HEAD"}
}

frozen if {
	http.method != "GET"
	net.cidr_contains("10.9.0.0/16", source.Address.SocketAddress.address)
}

source := input.attributes.source.address

answer := {
	"allowed": allow,
	"headers": {"x-user": object.get(input.attributes, ["metadataContext", "user"], "nobody")},
	"http_status": status,
}

status := 200 if allow

status := 401 if not user

status := 403 if {
	user
	not allow
}
