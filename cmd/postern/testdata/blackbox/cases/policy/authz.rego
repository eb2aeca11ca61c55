# The standard cases decide; what is none of them is nobody's.
package postern.authz

import data.postern.lib.cases

default decision := {"allow": false}

decision := cases.decision
