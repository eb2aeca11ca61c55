# data.abac.allow
package abac

subject := input.principal

resource := data.resources[id] if id := input.request.segments[1]

allow if {
	subject.metadata.clearance >= resource.level
	not barred
	applicable
}

applicable if subject.metadata.department == resource.department

applicable if {
	some project in resource.projects
	project in subject.claims.projects
}

barred if resource.embargo in subject.metadata.regions

barred if {
	subject.kind == "agent"
	resource.level > 1
}
