package postern.authz

import data.postern.lib.agents
import data.postern.lib.models

decision := models.decision if models.applies

decision := agents.decision if agents.applies

# Everything else is allowed: tenants are kept apart all the same.
decision := {"allow": true} if {
	not models.applies
	not agents.applies
}
