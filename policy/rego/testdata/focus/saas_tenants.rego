# Many tenants, each with plans, feature flags and guests from other tenants. One
# decision object with obligations.
package saas.access

principal := input.principal

tenant := data.tenants[input.target.tenant]

plan := data.plans[tenant.plan]

member if principal.tenant == input.target.tenant

guest if {
	some g in tenant.guests
	g.tenant == principal.tenant
	g.id == principal.id
}

grants(role) := object.get(data.roles, [tenant.plan, role], set())

may contains permission if {
	member
	some role in principal.roles
	some permission in grants(role)
}

may contains "items.read" if guest

wanted := sprintf("%s.%s", [input.target.type, input.target.action])

enabled(feature) if plan.features[feature]

enabled(feature) if feature in tenant.extra

mask contains field if {
	not "items.secrets" in may
	some field in ["token", "password"]
}

default decision := {"allow": false}

decision := {"allow": true, "obligations": [{"type": "mask", "fields": mask}], "limit": plan.limit} if {
	wanted in may
	enabled(input.target.type)
	not suspended
} else := {"allow": false, "reason": "plan"} if {
	wanted in may
	not enabled(input.target.type)
} else := {"allow": false, "reason": $"needs {wanted}"} if member

suspended if tenant.suspended

suspended if input.context.flags["suspend-all"]
