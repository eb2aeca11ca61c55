package postern.authz

default decision := {"allow": false}

decision := {"allow": true} if {
	not input.request.segments[0] in {"secret", "busy", "post-only"}
}

decision := {"allow": true} if {
	input.request.path == "/post-only"
	input.request.method == "POST"
}

decision := {"allow": false, "reason": "rate_limited", "response_headers_to_add": {"retry-after": "7"}} if {
	input.request.path == "/busy"
}
