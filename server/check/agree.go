package check

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Agreements knows what people have agreed to. The first two methods read RAM only
// (server/mirror), the others write to the store (server/registry).
type Agreements interface {
	// Consent returns what a user has consented to for whoever acts for the user, or nil.
	// It is shared and must not change.
	Consent(p *policy.Principal, now time.Time) *policy.Agreement
	// Approval returns the approval with the id if somebody has given it, and it is
	// neither over nor used; nil otherwise. It is shared and must not change.
	Approval(id string, now time.Time) *policy.Approval
	// Use uses an approval of an action up, for good: of two who try, one succeeds. An
	// error is a *policy.Refusal, or says that it could not be found out.
	Use(ctx context.Context, id, action, decision string) error
	// Return takes that back: the request with the decision was denied after all. If it
	// cannot, the approval stays used.
	Return(id, decision string)
}

// agree holds the request against who has to have agreed to it, whatever a policy says:
//
//	delegated  somebody acts for the principal            else delegation_denied
//	attested   the peer is one of these workloads         else attestation_required
//	consents   the user has consented to who acts         else consent_required
//	approval   somebody approved exactly this request     else approval_required
func (c *Checker) agree(x *exchange) bool {
	p, r := x.decision.Principal, x.route
	switch {
	case r.Delegated && len(p.Actors) == 0:
		x.deny(policy.ReasonDelegation, "the route asks for a token by which somebody acts for another, and nobody does")
		x.message = "This takes a token by which somebody acts for a user."
		return false
	case len(r.Attested) > 0 && !attested(r.Attested, x.decision.Peer):
		return x.deny(policy.ReasonAttestation, "the peer is none of the workloads that the route takes, or there is none")
	}
	return c.consented(x) && c.approved(x)
}

// attested reports whether the peer is one of the workloads, or below one that ends in
// "/". Only a peer for whom a trust domain vouches counts: a name of another kind could
// be written like a SPIFFE id.
func attested(workloads []string, peer *policy.Peer) bool {
	return peer != nil && peer.TrustDomain != "" && slices.ContainsFunc(workloads, func(w string) bool {
		if strings.HasSuffix(w, "/") {
			return strings.HasPrefix(peer.ID, w) && len(peer.ID) > len(w)
		}
		return w == peer.ID && w != ""
	})
}

// consented finds out what the user has consented to. Only who acts now is asked about:
// those before in the chain are told for information, and must not decide (RFC 8693
// section 4.1).
func (c *Checker) consented(x *exchange) bool {
	p, wanted := x.decision.Principal, x.route.Consents
	acted := p.Kind == policy.KindUser && len(p.Actors) > 0
	if acted && c.cfg.Agreements != nil {
		x.agreement = c.cfg.Agreements.Consent(p, x.now)
		x.decision.State = x.decision.State.Max(policy.StateMirror)
	}
	switch {
	case len(wanted) == 0:
		return true
	case p.Kind != policy.KindUser:
		return x.deny(policy.ReasonDelegation, "the route asks for a user's consent, and the principal is a "+string(p.Kind))
	case !acted:
		return true // who acts for himself need not agree to it
	}
	var missing []string
	for _, scope := range wanted {
		if x.agreement == nil || !slices.Contains(x.agreement.Scopes, scope) {
			missing = append(missing, scope)
		}
	}
	if len(missing) == 0 {
		return true
	}
	message, detail := "The user has not consented to "+strings.Join(missing, " ")+" for "+visible(p.Actors[0].ID), "there is no consent in force"
	if x.agreement != nil {
		message += "; the consent " + x.agreement.Consent + " does not cover it"
		detail = "the consent " + x.agreement.Consent + " does not cover " + strings.Join(missing, " ")
	}
	x.deny(policy.ReasonConsent, detail)
	x.message = message + "."
	return false
}

// visible keeps what a token says out of sentences that people read, if they could not.
func visible(id string) string { return FieldValue(id[:min(len(id), 128)], "") }

// approved finds the approval that the request shows, and holds it against what the
// request would do. Nothing is used up yet.
func (c *Checker) approved(x *exchange) bool {
	if x.route.Approval == "" {
		return true
	}
	refuse := func(detail string) bool { return x.deny(policy.ReasonApproval, detail) }
	proposal, err := c.propose(x)
	if err != nil {
		return refuse("what the request would do cannot be said exactly: " + err.Error())
	}
	if c.cfg.Propose {
		x.decision.Proposal = &proposal
	}
	if c.cfg.Agreements == nil {
		return refuse("the route asks for an approval, and nobody keeps any")
	}
	id := c.shown(x)
	if id == "" {
		return refuse("it shows no approval")
	}
	x.decision.State = x.decision.State.Max(policy.StateMirror)
	approval := c.cfg.Agreements.Approval(id, x.now)
	switch {
	case approval == nil:
		return refuse("the approval is not known here, not given, over or used")
	case approval.Action != proposal.Action:
		return refuse("the approval is for another action")
	}
	agreement := policy.Agreement{Approval: approval}
	if x.agreement != nil {
		agreement.Consent, agreement.Scopes = x.agreement.Consent, x.agreement.Scopes
	}
	x.agreement = &agreement
	return true
}

// shown is the id of the approval that the request shows; "" if it shows none, or more
// than one. A question about an action has it in its context.
func (c *Checker) shown(x *exchange) string {
	if c.cfg.ApprovalHeader == "" {
		return ""
	}
	id, n := x.attributes.Headers.Get(c.cfg.ApprovalHeader)
	switch {
	case n == 1:
		return id
	case n == 0 && x.attributes.Action != nil:
		id, _ = x.attributes.Context[c.cfg.ApprovalHeader].(string)
		return id
	}
	return ""
}

// approve uses up the approval that the request has shown, after everything else has
// said yes: what is denied uses none.
func (c *Checker) approve(ctx context.Context, x *exchange) bool {
	if x.route.Approval == "" {
		return true
	}
	x.decision.Phase = policy.PhaseSpend
	if x.agreement == nil || x.agreement.Approval == nil {
		return x.deny(policy.ReasonApproval, "the approval is gone")
	}
	a := x.agreement.Approval
	x.decision.State = policy.StateStore
	if err := c.cfg.Agreements.Use(ctx, a.ID, a.Action, x.decision.ID); err != nil {
		return x.refuse(err)
	}
	x.decision.Approval = a.ID
	return true
}

// unused gives an approval back with which nothing was done.
func (c *Checker) unused(x *exchange) {
	if d := &x.decision; !d.Allowed && d.Approval != "" {
		c.cfg.Agreements.Return(d.Approval, d.ID)
		d.Approval = ""
	}
}

// actionHeader tells the client the digest of what has to be approved.
const actionHeader = "x-postern-action"

// tellAction says what has to be approved, where that is what is missing.
func tellAction(d *policy.Decision) {
	switch {
	case d.Reason != policy.ReasonApproval:
		d.Proposal = nil
	case d.Proposal != nil:
		d.Client = append(slices.Clip(d.Client), policy.Header{Name: actionHeader, Value: d.Proposal.Action})
	}
}

// propose puts into words what the request would do.
func (c *Checker) propose(x *exchange) (policy.Proposed, error) {
	p, a := x.decision.Principal, x.attributes
	proposal := policy.Proposal{
		Version: 1, Approver: x.route.Approval, Route: x.route.Name, Tenant: a.Tenant,
		Requester: policy.Requester{Tenant: p.Tenant, ID: p.ID, Kind: p.Kind, Issuer: p.Issuer},
	}
	for _, actor := range p.Actors {
		proposal.Requester.Actors = append(proposal.Requester.Actors, policy.ProposedActor(actor))
	}
	if t := x.target; t != nil {
		proposal.Model, proposal.Category, proposal.Call = t.Model, t.Category, t.Method
		for i := range t.Tools {
			tool, err := policy.ProposeTool(&t.Tools[i])
			if err != nil {
				return policy.Proposed{}, err
			}
			proposal.Tools = append(proposal.Tools, tool)
		}
	}
	if err := c.proposeDeed(x, &proposal); err != nil {
		return policy.Proposed{}, err
	}
	return proposal.Encode()
}

// proposeDeed fills in the request, or the action of an application.
func (c *Checker) proposeDeed(x *exchange, into *policy.Proposal) error {
	a := x.attributes
	if d := a.Action; d != nil {
		properties, err := policy.Propose(object(d.Properties))
		if err != nil {
			return err
		}
		how, err := policy.Propose(a.Context[actionProperties])
		into.Deed = &policy.ProposedDeed{
			Name: d.Name, ResourceType: d.ResourceType, ResourceID: d.ResourceID, Properties: properties, ActionProperties: how,
		}
		return err
	}
	if err := isWhole(a); err != nil {
		return err
	}
	q := &x.request
	target, _ := a.Headers.Get(":path")
	into.Request = &policy.ProposedRequest{
		Method: q.Method, Scheme: q.Scheme, Host: q.Host, Port: q.Port, Target: cmp.Or(a.Path, target),
		Headers: c.parameters(a.Headers), Length: int64(len(a.Body)),
	}
	if len(a.Body) > 0 {
		sum := sha256.Sum256(a.Body)
		into.Request.Body = hex.EncodeToString(sum[:])
	}
	return nil
}

// actionProperties is where in the context a question has the properties of its action
// (OpenID AuthZEN 1.0 section 5.3): how much, to whom. The rest of the context is about
// when and where somebody asks, and is no part of what is done.
const actionProperties = "action_properties"

// object keeps a nil map from being a value.
func object(m map[string]any) any {
	if m == nil {
		return nil
	}
	return m
}

// parameters are the header fields that are part of what a request does.
func (c *Checker) parameters(headers policy.Headers) (fields [][2]string) {
	for _, h := range headers {
		if slices.Contains(parameterHeaders, h.Name) || slices.Contains(c.cfg.ApprovedHeaders, h.Name) {
			fields = append(fields, [2]string{h.Name, h.Value})
		}
	}
	return fields
}

// parameterHeaders say how a body is to be read, or name what is acted on: the target of
// WebDAV's COPY and MOVE (RFC 4918 section 10.3), the source of a copy between buckets.
var parameterHeaders = []string{
	"content-type", "content-encoding", "destination", "overwrite",
	"x-amz-copy-source", "x-goog-copy-source", "x-ms-copy-source",
}

// The ways in which nobody can say what the body is.
var (
	errCutBody     = errors.New("the gateway forwards a part of the body only")
	errUnknownBody = errors.New("the gateway does not forward the body, or does not say that there is none")
)

// isWhole fails unless all of the body is there, or certainly none. A body that was cut
// could end in any way, and one that the gateway kept to itself could say anything.
func isWhole(a *policy.Attributes) error {
	have := int64(len(a.Body))
	declared, lengths := a.Headers.Get("content-length")
	_, codings := a.Headers.Get("transfer-encoding")
	length, err := strconv.ParseUint(declared, 10, 63)
	switch {
	case a.BodyTruncated || a.Size > have:
		return errCutBody
	case lengths > 0 && (lengths > 1 || err != nil || int64(length) != have):
		return errCutBody
	case have > 0 || lengths > 0:
		return nil
	case codings > 0:
		return errUnknownBody
	case strings.HasPrefix(a.Protocol, "HTTP/1"), slices.Contains(bodiless, a.Method):
		return nil // RFC 9112 section 6.3; RFC 9110 section 9.3: what it means nobody says
	}
	return errUnknownBody
}

// bodiless are the methods whose clients need not say that they send no body.
var bodiless = []string{"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"}
