# What the tables say of scopes; users with passwords have roles instead.
package postern.authz

import data.postern.lib.rbac

decision := rbac.decision if not password

decision := {"allow": reader} if password

password if input.principal.method == "basic"

default reader := false

reader if {
	"reader" in input.principal.roles
	startswith(input.request.path, "/api/v1/things")
}
