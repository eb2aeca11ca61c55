# METADATA
# description: |
#   The decision where a policy directory holds data and no Rego.
package postern.authz

import data.postern.lib.rbac

decision := rbac.decision
