package postern.authz

kind := input.parsed_path[0]

decision := true if kind == "fine"

decision := {"allow": to_number(input.request.host) == 1} if kind == "fault"

# Hundreds of millions of rounds.
decision := {"allow": true} if {
	kind == "slow"
	some a in numbers.range(1, 1000)
	some b in numbers.range(1, 1000)
	some c in numbers.range(1, 1000)
	a + b + c == -1
}

decision := {"allow": true} if kind == "conflict"

decision := {"allow": false} if kind == "conflict"

decision := {"allow"} if kind == "set"

# Nonsense of every kind, as data.
decision := data.nonsense[input.parsed_path[1]] if kind == "nonsense"

decision := data.denied if kind == "denied"
