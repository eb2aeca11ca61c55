package check

import (
	"context"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
)

// Journal is an audit log that is on disk when it says so (audit.Journal).
type Journal interface {
	// Write returns when the record is on disk. An error says that it may not be.
	Write(ctx context.Context, r *audit.Record) error
}

// journal allows nothing that is not on disk, where the route asks for that. It comes
// last: what is in the journal as an allow has left Postern as one, or nothing has.
func (c *Checker) journal(ctx context.Context, x *exchange) bool {
	if !x.route.AuditFirst {
		return true
	}
	if c.cfg.Journal == nil {
		return x.deny(policy.ReasonAuditUnavailable, "the route asks for a journal, and there is none")
	}
	if err := c.cfg.Journal.Write(ctx, c.note(x)); err != nil {
		return x.deny(policy.ReasonAuditUnavailable, "the journal: "+err.Error())
	}
	return true
}
