package check

import (
	"time"

	"github.com/postern-auth/postern/policy"
)

// reusable is how long the caller may use this allow again for the same request (E-03):
// as long as the route says, and never past the end of what it rests on. What is for one
// use, or was done for this one request, is for no other.
func (x *exchange) reusable() time.Duration {
	ttl := x.route.CacheTTL
	counted := len(x.decision.Budgets) > 0 || x.decision.Reservation != "" || x.spent.Taken != nil
	if ttl <= 0 || counted || x.route.Approval != "" || x.route.AuditFirst || x.restsOnBody() || x.decision.State == policy.StateStale {
		return 0
	}
	for _, p := range x.proofs {
		if p.Confirm.Key != "" || !reusable[p.Principal.Method] && p != anonymous {
			return 0
		}
		for _, end := range [...]time.Time{p.NotAfter, p.Principal.ExpiresAt} {
			if !end.IsZero() {
				ttl = min(ttl, end.Sub(x.now))
			}
		}
	}
	return max(ttl, 0)
}

// reusable are the methods whose credentials prove the same at the next request. What a
// workload or an agent signs itself is for one.
var reusable = map[policy.Method]bool{
	policy.MethodAPIKey: true, policy.MethodPAT: true, policy.MethodJWT: true, policy.MethodOAuth: true,
	policy.MethodMTLS: true, policy.MethodSVID: true, policy.MethodBasic: true,
}
