# data.paging.allow
package paging

query := input.parsed_query

default allow := false

allow if {
	limit <= object.get(data.limits, input.principal.metadata.plan, 10)
	not too_many
}

limit := to_number(query.limit[0]) if regex.match(`^[0-9]{1,4}$`, query.limit[0])

limit := 10 if not query.limit

too_many if {
	some name
	count(query[name]) > 1
	not name in data.lists
}
