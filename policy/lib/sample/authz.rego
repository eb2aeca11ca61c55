# The sample policy of `postern serve --dev`. The tables in shop.yaml say who may
# do what; this file adds what tables cannot say.
package postern.authz

import data.postern.lib.rbac

default decision := {"allow": false, "message": "This belongs to another tenant.", "reason": "tenant_mismatch"}

decision := rbac.decision if own_tenant

# What has no tenant is open to every tenant's callers.
own_tenant if input.target.tenant == ""

own_tenant if input.target.tenant == input.principal.tenant
