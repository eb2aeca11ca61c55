package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// An approval is asked for with the text of a proposal (policy.Proposal), which says all
// that is to be done, and is for the digest of that text. Nobody can have one thing
// approved and do another: what the approver is shown is what is bound.
//
//	pending ── approve ─→ approved ── use ─→ used
//	   ├────── deny ────→ denied       │
//	   └────── withdraw ─→ withdrawn ←─┘
//
// Whatever the policy of the admin API says, this holds for who approves:
//
//   - It is a user, who calls for himself: no agent and no service, and nobody through
//     an agent.
//   - It is neither the requester, nor who asked for the approval, nor one of those who
//     act.
//   - It has one of ApprovalRules.AdminRoles, where an administrator has to agree.
//
// An approver who is off, gone, or has lost the role before the approval is used is an
// approver no more: that is looked at again when it is used, in the same transaction.

// ApprovalRules says how approvals are given. Zero fields stand for the defaults.
type ApprovalRules struct {
	// TTL is how long a wish for an approval waits at most; 1 hour unless set.
	TTL time.Duration
	// UseWithin is how long an approval can be used; 15 minutes unless set.
	UseWithin time.Duration
	// AdminRoles are the roles of which an administrator has one; PlatformAdmin and
	// TenantAdmin unless set.
	AdminRoles []string
	// MaxLoginAge is how long ago the approver may have logged in at most. Then who shows
	// a key or a token that does not say when cannot approve. 0: any.
	MaxLoginAge time.Duration
	// MaxPending is how many wishes of one requester may wait at once; 100 unless set.
	MaxPending int
}

// WithDefaults returns the rules with what they leave out.
func (c ApprovalRules) WithDefaults() ApprovalRules {
	positive(&c.TTL, time.Hour)
	positive(&c.UseWithin, 15*time.Minute)
	positive(&c.MaxPending, 100)
	if len(c.AdminRoles) == 0 {
		c.AdminRoles = []string{PlatformAdmin, TenantAdmin}
	}
	return c
}

// ApprovalRequest asks for an approval.
type ApprovalRequest struct {
	// Proposal is the text that a Check has returned.
	Proposal string
	// Body may hold the request's body, for the approver to see. It must be the one whose
	// digest is in the proposal.
	Body []byte
	// Reason is why, at most 256 bytes.
	Reason string
	// ExpiresAt is when the wish is over; as late as is allowed if it is zero.
	ExpiresAt time.Time
}

const (
	// maxBody is how much of a body an approval keeps, in bytes.
	maxBody = 16 << 10
	// keepApproval is how long an approval can be looked at after it is over.
	keepApproval = day
)

// RequestApproval asks for an approval.
func (r *Registry) RequestApproval(ctx context.Context, call Call, req ApprovalRequest) (*store.Approval, Change, error) {
	return r.onApproval(ctx, call, "approval.request", req, func(o *operation) (*store.Approval, error) {
		a, err := o.newApproval(&req)
		if err != nil {
			return nil, err
		}
		if err := o.roomForApproval(a); err != nil {
			return nil, err
		}
		if a.ID, err = o.newID(store.KindApproval); err != nil {
			return nil, err
		}
		o.noteApproval(a)
		o.entry.Reason = a.Reason
		return a, o.put(a, "the id")
	})
}

// newApproval makes the record of what is asked for.
func (o *operation) newApproval(req *ApprovalRequest) (*store.Approval, error) {
	var f faults
	proposal, err := policy.ParseProposal(req.Proposal)
	var proposed policy.Proposed
	if err == nil {
		proposed, err = proposal.Encode()
	}
	if err != nil {
		f.field("proposal", "is not what a Check has returned: %s", err)
		return nil, f.err()
	}
	tenant := proposal.Requester.Tenant
	if err := o.ownTenant(&f, tenant); err != nil {
		return nil, err
	}
	if holdsSecret(proposed.Text) {
		f.field("proposal", "holds a secret, which everybody could read there: if it is in use, revoke it")
	}
	body := o.shownBody(&f, proposal, req.Body)
	req.Reason = seal.Scrub(req.Reason)
	f.text("reason", req.Reason, maxReason)
	ends := store.Micro(req.ExpiresAt)
	otherwise(&ends, o.now.Add(o.cfg.Approvals.TTL))
	switch {
	case !ends.After(o.now):
		f.field("expire_time", "is in the past")
	case ends.After(o.now.Add(o.cfg.Approvals.TTL)):
		f.tooLong("expire_time", o.cfg.Approvals.TTL)
	}
	a := &store.Approval{
		Tenant: tenant, State: store.ApprovalPending, Requester: nameOf(proposal.Requester.Issuer, proposal.Requester.ID),
		RequestedBy: seal.Scrub(o.actor.Name()), Needs: proposal.Approver, Action: proposed.Action, Proposal: proposed.Text,
		Body: body, Reason: req.Reason, CreatedAt: o.now, ExpiresAt: ends,
	}
	if len(proposal.Requester.Actors) > 0 {
		a.Agent = proposal.Requester.Actors[0].ID
	}
	return a, f.err()
}

// ownTenant checks the tenant of something that need not be of a principal of ours: a
// token of another issuer can be of a tenant that has no record. One that has is in
// force.
func (o *operation) ownTenant(f *faults, tenant string) error {
	switch {
	case !o.actor.sees(tenant):
		return foreign("tenant")
	case tenant == "":
		return nil
	case !isTenantID(tenant):
		f.field("tenant", "is no id of a tenant")
		return nil
	}
	t, err := store.Get[store.Tenant](o.tx, tenant)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err == nil && t.Disabled != nil:
		f.add(WrongState, "tenant", "the tenant is disabled")
	}
	return err
}

// nameOf is how an actor of this API is named that an issuer knows by an id: see
// admin.actorOf.
func nameOf(issuer, id string) string {
	if issuer == seal.Issuer {
		return id
	}
	return issuer + "#" + id
}

// shownBody checks that a body is the one that the proposal speaks of.
func (o *operation) shownBody(f *faults, p *policy.Proposal, body []byte) string {
	if len(body) == 0 {
		return ""
	}
	sum := sha256.Sum256(body)
	switch {
	case p.Request == nil || p.Request.Body != hex.EncodeToString(sum[:]) || p.Request.Length != int64(len(body)):
		f.field("body", "is another one than the proposal speaks of")
	case len(body) > maxBody:
		f.field("body", "has %d bytes; at most %d are kept: leave it out, its digest is in the proposal", len(body), maxBody)
	case !utf8.Valid(body) || slices.Contains(body, 0):
		f.field("body", "is no text: leave it out, its digest is in the proposal")
	case holdsSecret(string(body)):
		f.field("body", "holds a secret, which everybody could read there: if it is in use, revoke it")
	default:
		return string(body)
	}
	return ""
}

// roomForApproval fails if the requester waits for as much as is allowed, or for the
// very same. What has long been over goes, so that there is not more and more to look
// through.
func (o *operation) roomForApproval(next *store.Approval) error {
	waiting, swept := 0, 0
	err := each[store.Approval](o.tx, store.Query{Owner: next.Columns().Owner}, func(a *store.Approval) error {
		switch {
		case ApprovalStateOf(a, o.now) == ApprovalPending:
			waiting++
			if a.Action == next.Action {
				return fail(AlreadyExists, "proposal", "the approval %s of the same waits for an answer", a.ID).with("id", a.ID)
			}
		case a.ExpiresAt.Before(o.now.Add(-keepApproval)) && swept < maxSwept:
			swept++
			return o.tx.Delete(store.KindApproval, a.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if most := o.cfg.Approvals.MaxPending; waiting >= most {
		return fail(QuotaExceeded, "", "%d approvals of the requester wait for an answer, which is all that is allowed: withdraw some", waiting)
	}
	return nil
}

// ApprovalState is where an approval is in its life. The texts are those of
// ApprovalState in proto/postern/admin/v1, without the prefix.
type ApprovalState string

// The states.
const (
	ApprovalPending   ApprovalState = "PENDING"
	ApprovalApproved  ApprovalState = "APPROVED"
	ApprovalDenied    ApprovalState = "DENIED"
	ApprovalUsed      ApprovalState = "USED"
	ApprovalWithdrawn ApprovalState = "WITHDRAWN"
	ApprovalExpired   ApprovalState = "EXPIRED"
)

// ApprovalStateOf returns the state of an approval at a time.
func ApprovalStateOf(a *store.Approval, now time.Time) ApprovalState {
	switch a.State {
	case store.ApprovalUsed:
		return ApprovalUsed
	case store.ApprovalDenied:
		return ApprovalDenied
	case store.ApprovalWithdrawn:
		return ApprovalWithdrawn
	case store.ApprovalPending, store.ApprovalApproved:
		if !now.Before(a.ExpiresAt) {
			return ApprovalExpired
		}
		if a.State == store.ApprovalApproved {
			return ApprovalApproved
		}
	}
	return ApprovalPending
}

// DecideApprovalRequest approves or denies an approval, or withdraws it.
type DecideApprovalRequest struct {
	ID string
	// Reason is why, at most 256 bytes.
	Reason string
}

// ApproveApproval says yes: from then on the requester can do once what was proposed.
func (r *Registry) ApproveApproval(ctx context.Context, call Call, req DecideApprovalRequest) (*store.Approval, Change, error) {
	return r.decideApproval(ctx, call, "approval.approve", req, store.ApprovalApproved, func(o *operation, a *store.Approval) error {
		if err := o.mayApprove(a, a.Needs); err != nil {
			return err
		}
		p, err := store.Get[store.Principal](o.tx, o.actor.Name())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		a.Recorded = p != nil
		a.ApproverKind, a.ApproverRoles = o.actor.Kind, slices.Clone(o.actor.Rights.Roles)
		a.ExpiresAt = o.now.Add(o.cfg.Approvals.UseWithin)
		return nil
	})
}

// DenyApproval says no, for good. Any user may who may approve for a human.
func (r *Registry) DenyApproval(ctx context.Context, call Call, req DecideApprovalRequest) (*store.Approval, Change, error) {
	return r.decideApproval(ctx, call, "approval.deny", req, store.ApprovalDenied, func(o *operation, a *store.Approval) error {
		return o.mayApprove(a, policy.ApproverHuman)
	})
}

// WithdrawApproval takes back the wish, or the yes if it was not used.
func (r *Registry) WithdrawApproval(ctx context.Context, call Call, req DecideApprovalRequest) (*store.Approval, Change, error) {
	return r.decideApproval(ctx, call, "approval.withdraw", req, store.ApprovalWithdrawn, nil)
}

func (r *Registry) decideApproval(ctx context.Context, call Call, name string, req DecideApprovalRequest, to store.ApprovalState, check func(*operation, *store.Approval) error) (*store.Approval, Change, error) {
	return r.onApproval(ctx, call, name, req, func(o *operation) (*store.Approval, error) {
		a, err := o.approval(req.ID)
		if err != nil {
			return nil, err
		}
		reason := req.Reason
		if err := o.because(&reason); err != nil {
			return nil, err
		}
		state := ApprovalStateOf(a, o.now)
		if state != ApprovalPending && (state != ApprovalApproved || to != store.ApprovalWithdrawn) {
			return nil, fail(WrongState, "", "the approval is %s", strings.ToLower(string(state))).with("state", string(state))
		}
		if check != nil {
			if err := check(o, a); err != nil {
				return nil, err
			}
		}
		a.State, a.Decided = to, o.ending(reason)
		return a, o.put(a, "the id")
	})
}

// mayApprove fails if the actor is not one who can approve.
func (o *operation) mayApprove(a *store.Approval, needs policy.Approver) error {
	actor := o.actor
	switch {
	case actor.Kind != policy.KindUser:
		return deny("", "only people approve: the caller is %s", or(string(actor.Kind), "nobody that is known"))
	case len(actor.Actors) > 0:
		return deny("", "nobody approves for another: somebody acts for the caller")
	case o.isRequester(a):
		return deny("", "nobody approves what they ask for themselves")
	case needs == policy.ApproverAdmin && !o.isAdmin(actor.Tenant, actor.Rights.Roles):
		return deny("", "this takes one of the roles %s", join(o.cfg.Approvals.AdminRoles))
	case needs != policy.ApproverAdmin && needs != policy.ApproverHuman:
		return deny("", "it is not known who has to approve it")
	}
	if most := o.cfg.Approvals.MaxLoginAge; most > 0 && (actor.AuthTime.IsZero() || o.now.Sub(actor.AuthTime).Abs() > most) {
		return deny("", "who approves has logged in at most %s ago, and this credential does not say so: log in again", span(most))
	}
	return nil
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// isAdmin reports whether one of the roles is an administrator's. That of the whole
// installation is worth nothing to who belongs to a tenant.
func (o *operation) isAdmin(tenant string, roles []string) bool {
	return slices.ContainsFunc(roles, func(role string) bool {
		return slices.Contains(o.cfg.Approvals.AdminRoles, role) && (role != PlatformAdmin || tenant == "")
	})
}

// isRequester reports whether the actor is somebody who would do what is to be approved,
// or who asked for it. That another issuer vouches for somebody of the same id and
// tenant does not make another person of him.
func (o *operation) isRequester(a *store.Approval) bool {
	if o.actor.Name() == a.RequestedBy {
		return true
	}
	if o.actor.Tenant != a.Tenant {
		return false
	}
	same := func(id string) bool { return o.actor.ID == id || strings.HasSuffix(o.actor.ID, "#"+id) }
	p, err := policy.ParseProposal(a.Proposal)
	if err != nil || same(p.Requester.ID) || o.actor.ID == a.Requester {
		return true // what cannot be read is nobody's to approve
	}
	return slices.ContainsFunc(p.Requester.Actors, func(actor policy.ProposedActor) bool { return same(actor.ID) })
}

// approval reads an approval that the actor sees.
func (o *operation) approval(id string) (*store.Approval, error) {
	a, err := readApproval(o.tx, o.actor, id)
	if err != nil {
		o.tried(store.KindApproval, id, err)
		return nil, err
	}
	o.noteApproval(a)
	return a, nil
}

// noteApproval says in the audit log whose it is, and what it is for.
func (o *operation) noteApproval(a *store.Approval) {
	o.target(store.KindApproval, a.ID, a.Tenant)
	o.detail("requester", a.Requester)
	o.detail("agent", a.Agent)
	o.detail("action", a.Action)
}

func readApproval(from store.Reader, a *Actor, id string) (*store.Approval, error) {
	return visible[store.Approval](from, a, "approval", id, seal.IsID(id), func(a *store.Approval) string { return a.Tenant })
}

// onApproval runs an operation that makes or changes one approval and returns it.
func (r *Registry) onApproval(ctx context.Context, call Call, name string, req any, do func(*operation) (*store.Approval, error)) (*store.Approval, Change, error) {
	a, change, err := onOne(ctx, r, call, name, req, func(a *store.Approval) string { return a.ID }, do, (*operation).approval)
	if err == nil && call.ValidateOnly && name == "approval.request" {
		a.ID = ""
	}
	return a, change, err
}

// onOne runs an operation that makes or changes one record and returns it: do does it,
// and read is how a repeated call gets the record by its id.
func onOne[T any](ctx context.Context, r *Registry, call Call, name string, req any, id func(*T) string, do func(*operation) (*T, error), read func(o *operation, id string) (*T, error)) (*T, Change, error) {
	var one *T
	change, err := r.change(ctx, call, action{name, same}, req, func(o *operation) (err error) {
		if one, err = do(o); err == nil {
			o.made = id(one)
		}
		return err
	}, func(o *operation, made string) (err error) {
		one, err = read(o, made)
		return err
	})
	if err != nil {
		return nil, change, err
	}
	return one, change, nil
}

// getOne returns the record that read finds.
func getOne[T any](ctx context.Context, r *Registry, actor *Actor, id string, read func(from store.Reader, a *Actor, id string) (*T, error)) (*T, error) {
	var one *T
	err := r.store.View(ctx, func(from store.Reader) (err error) {
		one, err = read(from, actor, id)
		return err
	})
	if err != nil {
		return nil, asError(err)
	}
	return one, nil
}

// GetApproval returns an approval.
func (r *Registry) GetApproval(ctx context.Context, actor Actor, id string) (*store.Approval, error) {
	return getOne(ctx, r, &actor, id, readApproval)
}

// ApprovalQuery says which approvals to list. Fields that are set must all match.
type ApprovalQuery struct {
	Page
	Tenant string
	// Principal is the id of who would act: the agent, or the requester if none acts.
	Principal string
	States    []ApprovalState
}

// ListApprovals lists approvals in the order of their ids.
func (r *Registry) ListApprovals(ctx context.Context, actor Actor, q ApprovalQuery) ([]*store.Approval, string, error) {
	tenant, err := actor.visible(q.Tenant)
	if err != nil {
		return nil, "", err
	}
	q.Tenant = tenant
	page := q.Page
	q.Page = Page{}
	c, err := r.cursor(page, q)
	if err != nil {
		return nil, "", err
	}
	owner := ""
	if q.Principal != "" {
		owner = store.PrincipalKey(tenant, q.Principal)
		if !store.Text(owner) {
			return nil, "", fail(InvalidField, "principal_id", "is not valid UTF-8")
		}
	}
	now := r.now()
	return list(ctx, r, store.Query{Tenant: tenant, Owner: owner}, c, func(a *store.Approval) bool {
		return len(q.States) == 0 || slices.Contains(q.States, ApprovalStateOf(a, now))
	})
}

// UseApproval uses an approval up for a decision: of two who try, one succeeds, because
// transactions come one after the other. A *policy.Refusal says that it cannot be used;
// any other error, that it is not known whether it was.
func (r *Registry) UseApproval(ctx context.Context, id, action, decision string) error {
	_, err := r.store.Update(ctx, func(tx store.Tx) error {
		o := &operation{Registry: r, tx: tx, now: r.now(), actor: &Actor{ID: system}}
		a, err := o.usable(id, action)
		if err != nil {
			return err
		}
		a.State, a.UsedAt, a.UsedBy = store.ApprovalUsed, o.now, decision
		return o.writeUse(a, "approval.use", decision)
	})
	return err
}

// usable reads an approval that is good for an action now.
func (o *operation) usable(id, action string) (*store.Approval, error) {
	refuse := func(detail string) (*store.Approval, error) {
		return nil, &policy.Refusal{Reason: policy.ReasonApproval, Detail: "the approval " + detail}
	}
	if !seal.IsID(id) {
		return refuse("has no such id")
	}
	a, err := store.Get[store.Approval](o.tx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return refuse("is not there")
	case err != nil:
		return nil, err
	case a.Action != action || action == "":
		return refuse("is for another action")
	}
	if state := ApprovalStateOf(a, o.now); state != ApprovalApproved {
		return refuse("is " + strings.ToLower(string(state)))
	}
	why, err := o.approverLost(a)
	switch {
	case err != nil:
		return nil, err
	case why != "":
		return refuse("is void: its approver " + why)
	}
	return a, nil
}

// approverLost says why whoever has approved is an approver no more; "" if that is not
// so. Of who has no record here nothing more can be found out than was known then.
func (o *operation) approverLost(a *store.Approval) (string, error) {
	if a.Decided == nil {
		return "is not known", nil
	}
	if !a.Recorded {
		return "", nil
	}
	p, err := store.Get[store.Principal](o.tx, a.Decided.By)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return "is gone", nil
	case err != nil:
		return "", err
	case p.Disabled != nil || p.Kind != policy.KindUser:
		return "is disabled", nil
	case a.Needs == policy.ApproverAdmin && !o.isAdmin(p.Tenant, p.Roles):
		return "has lost the role", nil
	case p.Tenant == "":
		return "", nil
	}
	t, err := store.Get[store.Tenant](o.tx, p.Tenant)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && t.Disabled != nil:
		return "is of a tenant that is disabled", nil
	}
	return "", err
}

// writeUse writes an approval that was used, or given back, with its audit entry.
func (o *operation) writeUse(a *store.Approval, name, decision string) error {
	o.noteApproval(a)
	o.detail("decision", decision)
	if a.Decided != nil {
		o.detail("approver", a.Decided.By)
	}
	e := o.entry
	e.Action = name
	if err := o.tx.Note(signed(e, Call{Actor: Actor{Tenant: a.Tenant, ID: a.Requester}})); err != nil {
		return err
	}
	return store.Put(o.tx, a)
}

// ReturnApproval takes the use by a decision back, which came to nothing. What somebody
// else has used meanwhile stays used. When it returns, this replica knows.
func (r *Registry) ReturnApproval(ctx context.Context, id, decision string) error {
	change, err := r.store.Update(ctx, func(tx store.Tx) error {
		o := &operation{Registry: r, tx: tx, now: r.now(), actor: &Actor{ID: system}}
		a, err := store.Get[store.Approval](tx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case err != nil:
			return err
		case a.State != store.ApprovalUsed || a.UsedBy != decision || decision == "":
			return nil
		}
		a.State, a.UsedAt, a.UsedBy = store.ApprovalApproved, time.Time{}, ""
		return o.writeUse(a, "approval.return", decision)
	})
	if err == nil {
		r.settle(ctx, change.Number) // or whoever tries again at once is told that it is used
	}
	return err
}
