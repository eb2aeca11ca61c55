# data.headers.allow
package headers

headers := input.attributes.request.http.headers

allow if {
	every name, value in required { headers[name] == value }
	count(unknown) < 2
}

required := object.get(data.required, input.request.segments[0], {})

unknown contains name if {
	some name, _ in headers
	startswith(name, "x-")
	not name in data.known
}

allow if {
	some name in ["x-beta", "x-region"]
	headers[name] == headers[sprintf("%s-copy", [name])]
}
