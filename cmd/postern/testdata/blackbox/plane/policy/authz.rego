# What the tables say, and one rule on what is noted on a credential.
package postern.authz

import data.postern.lib.rbac

decision := rbac.decision if not billing

decision := {"allow": team} if billing

default team := false

team if input.principal.metadata.team == "billing"

billing if startswith(input.target.http.path, "/billing/")
