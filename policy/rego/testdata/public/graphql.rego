# data.graphql.authz.allow
package graphql.authz

default allow := false

query := graphql.parse_query(input.parsed_body.query)

fields contains selection.Name if {
	some operation in query.Operations
	some selection in operation.SelectionSet
}

allow if {
	count(fields) > 0
	every field in fields { may(field) }
}

may(field) if "public" in data.fields[field]

may(field) if {
	some role in input.principal.roles
	role in data.fields[field]
}

may("me") if input.parsed_body.variables.id == input.principal.id
