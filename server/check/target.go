package check

import (
	"github.com/postern-auth/postern/policy"
)

// Targets reads what a request would do at its upstream (server/target.Reader).
type Targets interface {
	// Read returns it, or nil if there is nothing that it looks for. An error is a
	// *policy.Refusal, or says that it could not be found out. What it returns is new
	// each time.
	Read(a *policy.Attributes, q *policy.Request, r *policy.Route) (*policy.Target, error)
}

// aim reads what the request would do, and refuses what names things of another tenant:
// whatever a policy says, nobody reaches those.
func (c *Checker) aim(x *exchange) bool {
	if c.cfg.Targets == nil {
		return true
	}
	target, err := c.cfg.Targets.Read(x.attributes, &x.request, x.route)
	if err != nil {
		return x.refuse(err)
	}
	x.target = target
	return true
}
