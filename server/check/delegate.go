package check

import (
	"strconv"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// DefaultDepth is how many may act for one another where Config.MaxDepth says nothing.
const DefaultDepth = 3

// chained refuses credentials by which more act for one another than are accepted,
// whoever issued them.
func (c *Checker) chained(x *exchange) bool {
	most := c.cfg.MaxDepth
	if most <= 0 {
		most = DefaultDepth
	}
	for _, p := range x.proofs {
		if n := len(p.Principal.Actors); n > most {
			x.decision.Phase = policy.PhaseHold
			return x.deny(policy.ReasonDelegation, strconv.Itoa(n)+" act for one another, at most "+strconv.Itoa(most)+" are accepted")
		}
	}
	return true
}

// maxLacks is how many scopes a message names.
const maxLacks = 32

// lacks tells an agent which scopes it lacks, "" for all others. Whatever its name
// and theirs hold, the text is visible ASCII and has one line.
func lacks(d *policy.Decision) string {
	p := d.Principal
	if d.Allowed || d.Reason != policy.ReasonScope || p == nil || p.Kind != policy.KindAgent || len(d.MissingScopes) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("Agent " + FieldValue(p.ID, "") + " lacks scope: ")
	for i, scope := range d.MissingScopes[:min(len(d.MissingScopes), maxLacks)] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(FieldValue(scope, ","))
	}
	return b.String()
}
