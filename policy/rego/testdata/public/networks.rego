# data.networks.allow
package networks

default allow := false

allow if {
	some network in allowed
	net.cidr_contains(network, input.request.client_ip)
	not blocked
}

allowed := object.get(data.networks_of, input.principal.tenant, data.everybody)

blocked if {
	some network in data.blocked
	net.cidr_contains(network, input.attributes.source.address.socketAddress.address)
}

blocked if "untrusted" in input.request.zones
