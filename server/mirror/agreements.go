package mirror

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// What people have agreed to. Only what is in force is held: an approval that waits, was
// used or denied, and a consent that was withdrawn, are nothing that a check could find.
// A record that cannot be read takes away what there was.

// approval is an approval that was given.
type approval struct {
	id      string
	version int64
	doc     *store.Approval // no more of it than decides
	said    policy.Approval
}

// consent is a consent that is in force.
type consent struct {
	id      string
	of      delegation
	version int64
	doc     *store.Consent
	said    policy.Agreement
}

// delegation is a user, as tokens name one, and who acts for the user.
type delegation struct{ tenant, issuer, user, actor string }

func hashDelegation(seed maphash.Seed, p delegation) uint64 { return maphash.Comparable(seed, p) }

// Consent returns what a user has consented to for whoever acts for the user, or nil.
func (m *Mirror) Consent(p *policy.Principal, now time.Time) *policy.Agreement {
	w := m.world.Load()
	if p == nil || len(p.Actors) == 0 || w.consents.len() == 0 {
		return nil
	}
	c := w.consentsOf.get(delegation{p.Tenant, p.Issuer, p.ID, p.Actors[0].ID})
	if c == nil || c.over(now) {
		return nil
	}
	return &c.said
}

// Approval returns an approval that was given and is neither over nor used, or nil.
func (m *Mirror) Approval(id string, now time.Time) *policy.Approval {
	a := m.world.Load().approvals.get(id)
	if a == nil || !now.Before(a.said.ExpiresAt) {
		return nil
	}
	return &a.said
}

func (c *consent) over(now time.Time) bool {
	return !c.doc.ExpiresAt.IsZero() && !now.Before(c.doc.ExpiresAt)
}

func decodeApproval(from *store.Record, d *decoded) error {
	doc, err := document[store.Approval](from)
	if err != nil {
		return err
	}
	switch doc.State {
	case store.ApprovalApproved:
	case store.ApprovalPending, store.ApprovalDenied, store.ApprovalUsed, store.ApprovalWithdrawn:
		return nil
	default:
		return fmt.Errorf("its state is %q", doc.State)
	}
	if doc.Action == "" || doc.ExpiresAt.IsZero() || doc.Decided == nil {
		return errors.New("it does not say for what, until when, or by whom")
	}
	a := &approval{id: strings.Clone(from.ID), version: from.Version, doc: &store.Approval{
		ID: strings.Clone(doc.ID), Tenant: doc.Tenant, State: doc.State, Requester: doc.Requester, Agent: doc.Agent, Needs: doc.Needs,
		Action: doc.Action, Decided: &store.Ending{At: doc.Decided.At, By: doc.Decided.By},
		ApproverKind: doc.ApproverKind, ApproverRoles: doc.ApproverRoles, ExpiresAt: doc.ExpiresAt,
	}}
	a.said = policy.Approval{
		ID: a.id, Approver: doc.Decided.By, Kind: doc.ApproverKind, Roles: doc.ApproverRoles,
		Action: doc.Action, ExpiresAt: doc.ExpiresAt,
	}
	d.approval = a
	return nil
}

func decodeConsent(from *store.Record, d *decoded) error {
	doc, err := document[store.Consent](from)
	switch {
	case err != nil:
		return err
	case doc.Withdrawn != nil:
		return nil
	case doc.User == "" || doc.Issuer == "" || doc.Actor == "":
		return errors.New("it does not say whose it is, or to whom")
	}
	d.consent = &consent{
		id: strings.Clone(from.ID), version: from.Version, doc: doc,
		of:   delegation{doc.Tenant, doc.Issuer, doc.User, doc.Actor},
		said: policy.Agreement{Consent: doc.ID, Scopes: slices.Clip(doc.Scopes)},
	}
	return nil
}

// applyApproval puts in force what a record says, or takes away what it said before.
func (w *world) applyApproval(d *decoded) {
	if d.approval != nil {
		w.approvals.put(d.approval)
	} else {
		w.approvals.remove(d.id)
	}
}

func (w *world) applyConsent(d *decoded) {
	if old := w.consents.get(d.id); old != nil && (d.consent == nil || d.consent.of != old.of) {
		w.dropConsent(old)
	}
	if c := d.consent; c != nil {
		w.consents.put(c)
		w.consentsOf.put(c)
	}
}

func (w *world) dropConsent(c *consent) {
	w.consents.remove(c.id)
	if w.consentsOf.get(c.of) == c {
		w.consentsOf.remove(c.of)
	}
}

func (w *world) dropApproval(a *approval) { w.approvals.remove(a.id) }

// The way back, for the snapshot.

func (a *approval) document() (store.Document, int64) { return a.doc, a.version }
func (c *consent) document() (store.Document, int64)  { return c.doc, c.version }
