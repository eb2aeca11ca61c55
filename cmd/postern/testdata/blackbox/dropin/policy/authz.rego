package envoy.authz

import input.attributes.request.http

default allow := false

# What the plugin shows, shown again.
allow := {
	"allowed": true,
	"headers": {"x-user": "ann", "x-groups": ["a", "b"]},
	"response_headers_to_add": [{"x-cost": "7"}],
	"request_headers_to_remove": ["x-secret"],
	"query_parameters_to_set": {"page": "1"},
	"query_parameters_to_remove": ["debug"],
	"dynamic_metadata": {"seen": {name: value |
		some name in ["parsed_path", "parsed_query", "parsed_body", "truncated_body", "version"]
		value := input[name]
	}},
} if input.parsed_path[0] == "echo"

allow if input.parsed_path == ["plain", "yes"]

# One path for each thing that a policy can get wrong. "admin" must not be had.
allow := answers[input.parsed_path[1]] if input.parsed_path[0] == "answers"

answers["denied"] := {
	"allowed": false, "http_status": 418, "body": "no tea",
	"headers": {"x-why": "because"}, "dynamic_metadata": {"k": "v"},
}

answers["status-text"] := {"allowed": false, "http_status": "403"}

answers["status-999"] := {"allowed": false, "http_status": 999}

answers["status-200"] := {"allowed": false, "http_status": 200}

answers["no-allowed"] := {"headers": {"x-user": "ann"}}

answers["allowed-text"] := {"allowed": "true"}

answers["header-number"] := {"allowed": true, "headers": {"x-user": 7}}

answers["header-lf"] := {"allowed": true, "headers": {"x-user": "ann\nx-admin: true"}}

answers["header-cr"] := {"allowed": true, "response_headers_to_add": {"x-user": "ann\rx-admin: true"}}

answers["header-name"] := {"allowed": true, "headers": {"x-user\nx-admin": "ann"}}

answers["header-nul"] := {"allowed": false, "headers": {"x-user": "a\u0000b"}}

answers["query-lf"] := {"allowed": true, "query_parameters_to_set": {"a": "b\nc"}}

answers["framing"] := {"allowed": true, "headers": {"content-length": "0"}}

answers["list"] := [true]

answers["null"] := null

answers["text"] := "true"

allow := false if {
	input.parsed_path[0] == "admin"
}

allow if {
	input.parsed_path[0] == "orders"
	not refund
}

# A deny list, which says nothing if it cannot see the body.
refund if input.parsed_body.amount > 100

# Undefined, for the plugin's other entrypoint.
nothing if input.parsed_path[0] == "never"
