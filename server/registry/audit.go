package registry

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// AuditQuery says which entries to list. Fields that are set must all match.
type AuditQuery struct {
	Page
	Tenant, Actor, Action, Target string
	From, To                      time.Time
}

// ListAudit lists entries of the audit log, newest first (G-11).
func (r *Registry) ListAudit(ctx context.Context, actor Actor, q AuditQuery) ([]store.AuditEntry, string, error) {
	tenant, err := actor.visible(q.Tenant)
	if err != nil {
		return nil, "", err
	}
	for _, text := range []string{q.Tenant, q.Actor, q.Action, q.Target} {
		if !store.Text(text) {
			return nil, "", fail(InvalidField, "", "a filter is not valid UTF-8")
		}
	}
	page := q.Page
	q.Page, q.Tenant = Page{}, tenant
	c, err := r.cursor(page, q)
	if err != nil {
		return nil, "", err
	}
	var before int64
	if c.after != "" {
		if before, err = strconv.ParseInt(c.after, 10, 64); err != nil || before < 1 {
			return nil, "", fail(InvalidField, "page_token", "is not of this query: begin without one")
		}
	}
	// The oldest entry of a full page tells where to go on; that there is nothing
	// there is found out then.
	entries, err := r.store.Audit(ctx, store.AuditQuery{
		Tenant: tenant, Actor: q.Actor, Action: q.Action, Target: q.Target,
		From: q.From, To: q.To, Before: before, Limit: c.size,
	})
	if err != nil {
		return nil, "", asError(err)
	}
	if len(entries) < c.size {
		return entries, "", nil
	}
	last := entries[len(entries)-1].Seq
	if last <= 1 {
		return entries, "", nil
	}
	return entries, c.token(strconv.FormatInt(last, 10)), nil
}

// Refusal is what was refused before it came here.
type Refusal struct {
	// Action is what was tried, for example "credential.issue"; Target the record,
	// as "credential/4fQzR8xW0bLm"; Tenant whose that is, as the caller said.
	Action, Target, Tenant string
	// Reason is why it was refused.
	Reason string
}

// maxNote is how much the audit log takes of what a stranger wrote, in bytes.
const maxNote = 512

// Refused notes in the audit log that a call was refused: by authentication, or by
// the policy. The actor may be nobody. What this package refuses it notes itself. The
// texts may be the caller's: secrets of ours in them are taken out, and they are cut.
func (r *Registry) Refused(ctx context.Context, call Call, what Refusal) error {
	e := signed(store.AuditEntry{
		Action: what.Action, Target: what.Target, Tenant: what.Tenant, Denied: true, Reason: what.Reason,
	}, call)
	if !call.Actor.sees(e.Tenant) {
		e.Tenant = call.Actor.Tenant // no tenant's log is another's to write
	}
	for _, text := range []*string{&e.Target, &e.Tenant, &e.Reason, &e.RequestID} {
		*text = strings.ToValidUTF8((*text)[:min(len(*text), maxNote)], "")
	}
	if err := r.noteRefusal(ctx, e); err != nil {
		return asError(err)
	}
	return nil
}
