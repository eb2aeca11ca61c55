# data.tenants.decision
package tenants

principal := input.principal

wanted := input.target.tenant

decision := object.union(base, extra)

base := {"allow": count(violations) == 0, "deny": violations, "dynamic_metadata": {"tenant": wanted, "plan": plan}}

default plan := "none"

plan := data.plans[wanted]

extra := {"headers": {"x-tenant": wanted}} if wanted != "" else := {}

violations contains "another tenant" if {
	principal.tenant != wanted
	not principal.tenant in object.get(data.partners, wanted, [])
}

violations contains "not in this plan" if {
	some feature, plans in data.features
	startswith(input.request.path, feature)
	not plan in plans
}
