package registry

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// To decommission an agent ends for good, in one transaction, all that it ever held:
//
//	the agent      stays as a record that says so, and its id is not used again
//	what it owns   agents are decommissioned, other principals disabled
//	credentials    revoked, those that are off or have expired too
//	sessions       gone
//	approvals      withdrawn: nobody acts on what it was once allowed
//	workloads      others may be them now
//	tokens         a line of the denylist names the agent: whatever was issued to it, or
//	               lets it act for somebody, before now. The line goes when no such
//	               token can live any more
//
// The record alone is enough for every replica to refuse the agent and all below it
// (server/mirror); the rest says the same in each place where somebody may look. What is
// reserved of a budget is given back when the reservation expires.

// Decommissioned is what came of DecommissionAgent.
type Decommissioned struct {
	Agent *store.Principal
	// Agents are how many agents were ended, it among them, and Principals how many others
	// that they own were disabled; Credentials, Sessions and Approvals how many of theirs
	// were ended. All are 0 if it was decommissioned before.
	Agents, Principals, Credentials, Sessions, Approvals int
}

// maxFalling is how many records fall with an agent at most: all writers wait meanwhile.
const maxFalling = 10_000

// DecommissionAgent ends an agent and all that falls with it for good. One that was
// decommissioned stays as it is.
func (r *Registry) DecommissionAgent(ctx context.Context, call Call, req AgentRequest) (Decommissioned, Change, error) {
	var done Decommissioned
	change, err := r.change(ctx, call, action{"agent.decommission", same}, req, func(o *operation) error {
		p, err := o.agent(req.Tenant, req.ID, req.Etag)
		if err != nil && (p == nil || ReasonOf(err) != WrongState) {
			return err
		}
		reason := req.Reason
		if err := o.because(&reason); err != nil {
			return err
		}
		done = Decommissioned{Agent: p}
		if !p.Decommissioned() {
			if err := o.decommission(&done, p, reason); err != nil {
				return err
			}
		}
		done.each(func(name string, n *int) { o.detail(name, strconv.Itoa(*n)) })
		o.made = done.String()
		return nil
	}, func(o *operation, made string) (err error) {
		done, err = o.decommissionedBefore(made)
		return err
	})
	if err != nil {
		return Decommissioned{}, change, err
	}
	return done, change, nil
}

// each calls do for every count.
func (d *Decommissioned) each(do func(name string, n *int)) {
	do("agents", &d.Agents)
	do("principals", &d.Principals)
	do("credentials", &d.Credentials)
	do("sessions", &d.Sessions)
	do("approvals", &d.Approvals)
}

// String is what a repeated call is told from: the key of the agent and the counts.
func (d *Decommissioned) String() string {
	text := d.Agent.Key()
	d.each(func(_ string, n *int) { text += " " + strconv.Itoa(*n) })
	return text
}

// decommissionedBefore is the way back.
func (o *operation) decommissionedBefore(made string) (d Decommissioned, err error) {
	var key string
	if _, err := fmt.Sscan(made, &key, &d.Agents, &d.Principals, &d.Credentials, &d.Sessions, &d.Approvals); err != nil {
		return d, err
	}
	tenant, id := store.SplitPrincipalKey(key)
	d.Agent, err = o.principal(tenant, id, "")
	return d, err
}

// decommission ends an agent that is living.
func (o *operation) decommission(done *Decommissioned, root *store.Principal, reason string) error {
	falling, err := o.below(root.Key())
	if err != nil {
		return err
	}
	if n := len(falling.principals) + len(falling.credentials); n > maxFalling {
		return fail(QuotaExceeded, "", "%d records fall with the agent, and one change ends at most %d: disable it, which denies all of them at once, and then decommission its agents one by one", n, maxFalling)
	}
	until, err := o.longestToken(root.Tenant)
	if err != nil {
		return err
	}
	fate := "its owner " + root.ID + " was decommissioned"
	for _, key := range falling.principals {
		p, why := root, reason
		if key != root.Key() {
			if p, err = store.Get[store.Principal](o.tx, key); err != nil {
				return err
			}
			why = fate
		}
		if err := o.endPrincipal(done, p, why, until); err != nil {
			return err
		}
		if p != root && p.Kind == policy.KindAgent {
			if err := o.noteFallen(p, root); err != nil {
				return err
			}
		}
	}
	for _, c := range falling.credentials {
		if c.Revoked != nil {
			continue
		}
		done.Credentials++
		c.Revoked, c.UpdatedAt = o.ending(fateOf(c.Principal == root.ID, reason, fate)), o.now
		if err := o.put(c, "the id"); err != nil {
			return err
		}
	}
	return nil
}

func fateOf(own bool, reason, fate string) string {
	if own {
		return reason
	}
	return fate
}

// longestToken is when the last token has ended that somebody can have been given before
// now, with a day for clocks and for issuers who give more.
func (o *operation) longestToken(tenant string) (time.Time, error) {
	rules, err := o.rules(tenant)
	return o.now.Add(max(time.Duration(rules.MaxTTL), o.cfg.MaxTTL) + day), err
}

// endPrincipal ends a principal, its sessions, approvals and workloads.
func (o *operation) endPrincipal(done *Decommissioned, p *store.Principal, why string, until time.Time) error {
	if err := o.remove(store.Query{Kind: store.KindSession, Owner: p.Key()}, &done.Sessions); err != nil {
		return err
	}
	if err := o.removeWorkloads(p.Key()); err != nil {
		return err
	}
	if err := o.withdrawApprovals(p.Key(), why, &done.Approvals); err != nil {
		return err
	}
	if p.Decommissioned() {
		return nil
	}
	end := o.ending(why)
	if p.Disabled == nil {
		// So that older servers, which know nothing of decommissioning, refuse it too.
		p.Disabled = end
	}
	p.UpdatedAt = o.now
	if p.Kind != policy.KindAgent {
		done.Principals++
		return o.put(p, "the id")
	}
	done.Agents++
	if p.Agent == nil {
		p.Agent = &store.Agent{}
	}
	p.Agent.Decommissioned = end
	if err := o.put(p, "the id"); err != nil {
		return err
	}
	return o.denyAgent(p, why, until)
}

// withdrawApprovals takes back what people have agreed to, or were asked to, and nobody has
// used.
func (o *operation) withdrawApprovals(owner, why string, n *int) error {
	return each[store.Approval](o.tx, store.Query{Owner: owner}, func(a *store.Approval) error {
		if a.State != store.ApprovalPending && a.State != store.ApprovalApproved {
			return nil
		}
		*n++
		a.State, a.Decided = store.ApprovalWithdrawn, o.ending(why)
		return o.put(a, "the id")
	})
}

// denyAgent adds a line to the denylist. It does not count against what a tenant may
// have: nobody must be kept from ending an agent.
func (o *operation) denyAgent(p *store.Principal, why string, until time.Time) error {
	id, err := o.newID(store.KindDenial)
	if err != nil {
		return err
	}
	return o.put(&store.Denial{
		ID: id, Agent: p.ID, Tenant: p.Tenant, Ended: p.ID, IssuedBefore: o.now, ExpiresAt: until,
		Note: why, By: o.ending("").By, CreatedAt: o.now,
	}, "the id")
}

// noteFallen says in the audit log of an agent with which one it fell.
func (o *operation) noteFallen(p, root *store.Principal) error {
	return o.tx.Note(signed(store.AuditEntry{
		Action: "agent.decommission", Target: string(store.KindPrincipal) + "/" + p.Key(), Tenant: p.Tenant,
		Reason: p.Agent.Decommissioned.Reason, Detail: map[string]string{"with": root.ID},
	}, o.call))
}
