package check

import (
	"slices"
	"strings"

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
	if target == nil {
		return true
	}
	for i := range target.Resources {
		if r := &target.Resources[i]; !x.owns(r.Tenant) {
			return x.deny(policy.ReasonTenant, r.From+" names what belongs to another tenant")
		}
	}
	return c.callable(x)
}

// callable refuses a tool that is not on the list of a registered agent who calls it, or
// who acts for whoever does. Who is not registered has no list.
func (c *Checker) callable(x *exchange) bool {
	if c.cfg.Agents == nil || x.target.Method == "" {
		return true // tools that a model is only offered have no method
	}
	for i := range x.target.Tools {
		name := x.target.Tools[i].Name
		for _, proof := range x.proofs {
			p := proof.Principal
			if p.Kind == policy.KindAgent && !c.lists(p.Tenant, p.ID, name) {
				return x.deny(policy.ReasonTool, "the tool is not on the list of the agent "+p.ID)
			}
			for j := range p.Actors {
				if !c.lists(p.Tenant, p.Actors[j].ID, name) {
					return x.deny(policy.ReasonTool, "the tool is not on the list of the agent "+p.Actors[j].ID)
				}
			}
		}
	}
	return true
}

// lists reports whether the agent may call the tool, or is none that is registered.
func (c *Checker) lists(tenant, id, tool string) bool {
	agent := c.cfg.Agents.Agent(tenant, id)
	return agent == nil || slices.ContainsFunc(agent.Tools, func(pattern string) bool {
		prefix, many := strings.CutSuffix(pattern, "*")
		return pattern == tool || pattern == "*" || many && strings.HasSuffix(prefix, ".") && strings.HasPrefix(tool, prefix)
	})
}

// owns reports whether every principal is of the tenant, byte for byte. Who is of no
// tenant owns nothing, but reaches all that an installation-wide route leads to.
func (x *exchange) owns(tenant string) bool {
	if tenant == "" {
		return false
	}
	for _, p := range x.proofs {
		wide := p.Principal.Tenant == "" && x.route.InstallationWide && p != anonymous
		if p.Principal.Tenant != tenant && !wide {
			return false
		}
	}
	return len(x.proofs) > 0
}

// restsOnBody reports whether the decision is about what the body says: callers who use an
// allow again may not compare bodies.
func (x *exchange) restsOnBody() bool {
	return x.target != nil && (x.target.Protocol != "" || slices.ContainsFunc(x.target.Resources, func(r policy.Resource) bool {
		return strings.HasPrefix(r.From, "body:")
	}))
}

// disbelieve takes away what the caller is not believed to say about models, so that
// neither Postern nor a policy takes it for the truth.
func (c *Checker) disbelieve(x *exchange) {
	if len(c.cfg.ModelHeaders) == 0 || x.trust.Models {
		return
	}
	x.attributes.Headers = slices.DeleteFunc(x.attributes.Headers, func(h policy.Header) bool {
		return slices.Contains(c.cfg.ModelHeaders, h.Name)
	})
}

// unsaid are the fields that the upstream must not get either, seen or not.
func (c *Checker) unsaid(x *exchange) []string {
	if x.trust.Models {
		return nil
	}
	return c.cfg.ModelHeaders
}
