package check_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/check"
)

// people are Agreements that a test plays.
type people struct {
	consent   *policy.Agreement
	approvals map[string]*policy.Approval
	used      map[string]string // approval to decision
	fault     error             // of Use
	returned  []string
}

func (p *people) Consent(who *policy.Principal, _ time.Time) *policy.Agreement {
	if len(who.Actors) == 0 || who.Actors[0].ID != "bot" {
		return nil
	}
	return p.consent
}

func (p *people) Approval(id string, now time.Time) *policy.Approval {
	if a := p.approvals[id]; a != nil && now.Before(a.ExpiresAt) {
		return a
	}
	return nil
}

func (p *people) Use(_ context.Context, id, action, decision string) error {
	switch {
	case p.fault != nil:
		return p.fault
	case p.used[id] != "" || p.approvals[id].Action != action:
		return &policy.Refusal{Reason: policy.ReasonApproval, Detail: "used"}
	}
	p.used[id] = decision
	return nil
}

func (p *people) Return(id, decision string) {
	if p.used[id] == decision {
		delete(p.used, id)
		p.returned = append(p.returned, id)
	}
}

// approve says yes to what a decision proposes.
func (p *people) approve(t *testing.T, id string, d policy.Decision) {
	t.Helper()
	if d.Reason != policy.ReasonApproval || d.Proposal == nil {
		t.Fatalf("%v %+v", d.Reason, d.Proposal)
	}
	p.approvals[id] = &policy.Approval{ID: id, Action: d.Proposal.Action, Approver: "acme/boss", Kind: policy.KindUser, ExpiresAt: noon.Add(time.Minute)}
}

// agreeing is a world in which bot acts for alice on one route.
func agreeing(t *testing.T, route policy.Route) (*world, *people) {
	t.Helper()
	w := newWorld(t)
	reader, err := canonical.New(canonical.Config{CredentialHeaders: []string{"x-api-key", "x-approval"}})
	if err != nil {
		t.Fatal(err)
	}
	p := &people{approvals: map[string]*policy.Approval{}, used: map[string]string{}}
	w.proofs["jwt"].Principal.Actors = []policy.Actor{{ID: "bot", Kind: policy.KindAgent}, {ID: "elder", Kind: policy.KindAgent}}
	w.proofs["jwt"].Principal.Issuer = "https://idp.test"
	w.cfg.Reader, w.cfg.Agreements, w.cfg.ApprovalHeader, w.cfg.Propose = reader, p, "x-approval", true
	w.cfg.Reserved = []string{"x-approval"}
	route.Name = "r"
	w.cfg.Routes = []policy.Route{route}
	return w, p
}

// pay is a request of bot's for alice.
func pay(change ...func(a *policy.Attributes)) *policy.Attributes {
	a := request("authorization", "Bearer jwt", "content-type", "application/json")
	a.Method, a.Path, a.Body, a.Size = "POST", "/pay?to=7", []byte(`{"amount":1}`), 12
	a.Headers = append(a.Headers, policy.Header{Name: "content-length", Value: "12"})
	for _, c := range change {
		c(a)
	}
	return a
}

func showing(id string) func(a *policy.Attributes) {
	return func(a *policy.Attributes) {
		a.Headers = append(a.Headers, policy.Header{Name: "x-approval", Value: id})
	}
}

// somebody has to act for the user, and the user has to have consented to that.
func TestConsents(t *testing.T) {
	t.Parallel()
	w, p := agreeing(t, policy.Route{Delegated: true, Consents: []string{"data:write"}})
	want(t, w.check(t, request("x-api-key", "key")), policy.ReasonDelegation, policy.PhaseHold)

	d := w.check(t, pay())
	want(t, d, policy.ReasonConsent, policy.PhaseHold)
	if d.Message != "The user has not consented to data:write for bot." {
		t.Error(d.Message)
	}
	p.consent = &policy.Agreement{Consent: "c1", Scopes: []string{"data:read"}}
	d = w.check(t, pay())
	want(t, d, policy.ReasonConsent, policy.PhaseHold)
	if !strings.Contains(d.Message, "the consent c1 does not cover it") {
		t.Error(d.Message)
	}
	p.consent = &policy.Agreement{Consent: "c1", Scopes: []string{"data:read", "data:write"}}
	d = w.check(t, pay())
	want(t, d, policy.ReasonAllowed, policy.PhaseRecord)
	if in := w.decider.input.Agreement; in == nil || in.Consent != "c1" || d.State == policy.StateNone {
		t.Errorf("the policy sees %+v, %v", in, d.State)
	}
	// Who acted before does not count (RFC 8693 section 4.1).
	slices.Reverse(w.proofs["jwt"].Principal.Actors)
	want(t, w.check(t, pay()), policy.ReasonConsent, policy.PhaseHold)
	// A policy that asks for nothing more lifts none of it.
	w.cfg.Agreements = nil
	want(t, w.check(t, pay()), policy.ReasonConsent, policy.PhaseHold)
}

// A user who comes himself need not have consented to himself; nobody but a user can.
func TestConsentsOfWhom(t *testing.T) {
	t.Parallel()
	w, _ := agreeing(t, policy.Route{Consents: []string{"data:write"}})
	want(t, w.check(t, request("x-api-key", "key")), policy.ReasonAllowed, policy.PhaseRecord)
	w.proofs["key"].Principal.Kind = policy.KindService
	want(t, w.check(t, request("x-api-key", "key")), policy.ReasonDelegation, policy.PhaseHold)
	w.cfg.Routes[0].Anonymous = true
	want(t, w.check(t, request()), policy.ReasonDelegation, policy.PhaseHold)
}

// without the attestation that the route asks for, nobody gets to the policy.
func TestAttested(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		workloads []string
		peer      policy.Peer
		ok        bool
	}{
		{[]string{"spiffe://prod/sandbox/"}, policy.Peer{ID: "spiffe://prod/sandbox/7", TrustDomain: "prod"}, true},
		{[]string{"spiffe://prod/other", "spiffe://prod/sandbox/7"}, policy.Peer{ID: "spiffe://prod/sandbox/7", TrustDomain: "prod"}, true},
		{[]string{"spiffe://prod/sandbox/"}, policy.Peer{ID: "spiffe://prod/sandbox/", TrustDomain: "prod"}, false},
		{[]string{"spiffe://prod/sandbox/"}, policy.Peer{ID: "spiffe://prod/sandbox", TrustDomain: "prod"}, false},
		{[]string{"spiffe://prod/sandbox"}, policy.Peer{ID: "spiffe://prod/sandbox/7", TrustDomain: "prod"}, false},
		{[]string{"spiffe://prod/sandbox/"}, policy.Peer{ID: "spiffe://prod/sandbox/7"}, false},
		{[]string{"", "/"}, policy.Peer{ID: "spiffe://prod/sandbox/7", TrustDomain: "prod"}, false},
		{[]string{"spiffe://prod/sandbox/"}, policy.Peer{ID: "x spiffe://prod/sandbox/7", TrustDomain: "prod"}, false},
		{[]string{"spiffe://prod/sandbox/"}, policy.Peer{}, false},
	} {
		w, _ := agreeing(t, policy.Route{Attested: tt.workloads})
		w.cfg.Peers = showsPeer{&tt.peer}
		reason, phase := policy.ReasonAttestation, policy.PhaseHold
		if tt.ok {
			reason, phase = policy.ReasonAllowed, policy.PhaseRecord
		}
		want(t, w.check(t, request("x-api-key", "key")), reason, phase)
	}
	w, _ := agreeing(t, policy.Route{Attested: []string{"spiffe://prod/sandbox/"}, Anonymous: true})
	want(t, w.check(t, request()), policy.ReasonAttestation, policy.PhaseHold)
}

type showsPeer struct{ peer *policy.Peer }

func (s showsPeer) Peer(*policy.Attributes, check.Trust) (*authn.Proof, error) {
	if s.peer.ID == "" {
		return nil, authn.ErrNotMine
	}
	return &authn.Proof{Principal: &policy.Principal{ID: s.peer.ID, Kind: policy.KindService, Method: policy.MethodMTLS}, Peer: s.peer}, nil
}

// the request goes through once after somebody has approved exactly it.
func TestApproval(t *testing.T) {
	t.Parallel()
	w, p := agreeing(t, policy.Route{Approval: policy.ApproverHuman})
	d := w.check(t, pay())
	want(t, d, policy.ReasonApproval, policy.PhaseHold)
	if fields(d.Client)["x-postern-action"] != d.Proposal.Action || w.decider.asked > 0 {
		t.Errorf("%v", d.Client)
	}
	proposal, err := policy.ParseProposal(d.Proposal.Text)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(`{"amount":1}`))
	if r := proposal.Request; proposal.Requester.ID != "alice" || proposal.Requester.Actors[0].ID != "bot" || proposal.Approver != "human" ||
		r.Target != "/pay?to=7" || r.Body != hex.EncodeToString(sum[:]) || r.Headers[0] != [2]string{"content-type", "application/json"} {
		t.Error(d.Proposal.Text)
	}
	p.approve(t, "a1", d)

	d = w.check(t, pay(showing("a1")))
	want(t, d, policy.ReasonAllowed, policy.PhaseRecord)
	if d.Approval != "a1" || p.used["a1"] != d.ID || d.State != policy.StateStore || d.Proposal != nil || !slices.Contains(d.Remove, "x-approval") {
		t.Errorf("%+v", d)
	}
	if in := w.decider.input.Agreement; in == nil || in.Approval.Approver != "acme/boss" {
		t.Errorf("the policy sees %+v", in)
	}
	d = w.check(t, pay(showing("a1")))
	want(t, d, policy.ReasonApproval, policy.PhaseSpend) // of the store: this replica has not heard of it yet
	if d.Approval != "" || d.Proposal == nil {
		t.Errorf("it is used twice, or nobody says what to ask for: %+v", d)
	}
}

// an approval of one thing is worth nothing for another, down to one byte.
func TestApprovalOfSomethingElse(t *testing.T) {
	t.Parallel()
	w, p := agreeing(t, policy.Route{Approval: policy.ApproverHuman})
	w.cfg.ApprovedHeaders = []string{"x-target"}
	w.proofs["jwt2"] = proof("alice2", "jwt")
	w.proofs["jwt2"].Principal.Actors = w.proofs["jwt"].Principal.Actors
	p.approve(t, "a1", w.check(t, pay()))
	header := func(name, value string) func(a *policy.Attributes) {
		return func(a *policy.Attributes) {
			a.Headers = slices.DeleteFunc(a.Headers, func(h policy.Header) bool { return h.Name == name })
			a.Headers = append(a.Headers, policy.Header{Name: name, Value: value})
		}
	}
	body := func(text string) func(a *policy.Attributes) {
		return func(a *policy.Attributes) {
			a.Body, a.Size = []byte(text), int64(len(text))
			header("content-length", strconv.Itoa(len(text)))(a)
		}
	}
	for what, change := range map[string]func(a *policy.Attributes){
		"path":               func(a *policy.Attributes) { a.Path = "/pay2?to=7" },
		"query":              func(a *policy.Attributes) { a.Path = "/pay?to=8" },
		"no query":           func(a *policy.Attributes) { a.Path = "/pay" },
		"escaped path":       func(a *policy.Attributes) { a.Path = "/p%61y?to=7" },
		"method":             func(a *policy.Attributes) { a.Method = "PUT" },
		"host":               func(a *policy.Attributes) { a.Host = "bank.test" },
		"port":               func(a *policy.Attributes) { a.Host = "api.test:8443" },
		"body":               body(`{"amount":2}`),
		"a byte more":        body(`{"amount":1} `),
		"no body":            body(``),
		"content-type":       header("content-type", "application/json "),
		"content-encoding":   header("content-encoding", "gzip"),
		"where to copy":      header("destination", "/x"),
		"a configured field": header("x-target", "y"),
		"tenant":             func(a *policy.Attributes) { a.Tenant = "acme" },
		"another requester":  header("authorization", "Bearer jwt2"),
		"a truncated body":   func(a *policy.Attributes) { a.BodyTruncated = true },
		"more to come":       func(a *policy.Attributes) { a.Size = 13 },
		"another id":         func(a *policy.Attributes) { a.Headers[len(a.Headers)-1].Value = "a2" },
		"no id":              func(a *policy.Attributes) { a.Headers[len(a.Headers)-1].Value = "" },
	} {
		d := w.check(t, pay(showing("a1"), change))
		if d.Allowed || d.Reason != policy.ReasonApproval && d.Reason != policy.ReasonRequestInvalid {
			t.Errorf("%s: %v %s", what, d.Reason, d.Detail)
		}
	}
	want(t, w.check(t, pay(showing("a1"), showing("a1"))), policy.ReasonRequestInvalid, policy.PhaseRead)
	if len(p.used) != 0 {
		t.Fatal("it was used up by something else")
	}
	// What is no part of it may differ.
	want(t, w.check(t, pay(showing("a1"), header("user-agent", "x"))), policy.ReasonAllowed, policy.PhaseRecord)
}

// A body that the gateway keeps to itself could say anything.
func TestApprovalNeedsTheBody(t *testing.T) {
	t.Parallel()
	bare := func(method, protocol string, fields ...string) *policy.Attributes {
		a := request(append([]string{"authorization", "Bearer jwt"}, fields...)...)
		a.Method, a.Protocol, a.Size = method, protocol, -1
		return a
	}
	for what, tt := range map[string]struct {
		a  *policy.Attributes
		ok bool
	}{
		"GET":                         {bare("GET", "HTTP/2"), true},
		"DELETE":                      {bare("DELETE", "HTTP/2"), true},
		"POST over HTTP/1":            {bare("POST", "HTTP/1.1"), true},
		"POST, and says it has none":  {bare("POST", "HTTP/2", "content-length", "0"), true},
		"POST":                        {bare("POST", "HTTP/2"), false},
		"POST of unknown protocol":    {bare("POST", ""), false},
		"an unknown method":           {bare("PURGE", "HTTP/2"), false},
		"POST of a body not seen":     {bare("POST", "HTTP/1.1", "content-length", "5"), false},
		"GET of a body not seen":      {bare("GET", "HTTP/2", "content-length", "5"), false},
		"chunked, not seen":           {bare("POST", "HTTP/1.1", "transfer-encoding", "chunked"), false},
		"GET, chunked, not seen":      {bare("GET", "HTTP/1.1", "transfer-encoding", "chunked"), false},
		"a length that is no number":  {bare("POST", "HTTP/1.1", "content-length", "+0"), false},
		"a length of words":           {bare("POST", "HTTP/1.1", "content-length", "0x0"), false},
		"a length beyond all numbers": {bare("POST", "HTTP/1.1", "content-length", "99999999999999999999"), false},
	} {
		w, _ := agreeing(t, policy.Route{Approval: policy.ApproverHuman})
		d := w.check(t, tt.a)
		want(t, d, policy.ReasonApproval, policy.PhaseHold)
		if (d.Proposal != nil) != tt.ok {
			t.Errorf("%s: %+v, %s", what, d.Proposal, d.Detail)
		}
	}
}

// An action of an application shows its approval in its context.
func TestApprovalOfAnAction(t *testing.T) {
	t.Parallel()
	w, p := agreeing(t, policy.Route{Approval: policy.ApproverAdmin})
	act := func(amount any, id string) *policy.Attributes {
		a := &policy.Attributes{
			Door: "grpc", Size: -1, Presented: &policy.Presented{Use: "bearer", Secret: policy.NewSecret("jwt")},
			Action: &policy.Action{Name: "orders.refund", ResourceType: "order", ResourceID: "7", Properties: map[string]any{"amount": amount}},
		}
		if id != "" {
			a.Context = map[string]any{"x-approval": id}
		}
		return a
	}
	d := w.check(t, act(1.0, ""))
	if d.Proposal == nil || !strings.Contains(d.Proposal.Text, `"properties":{"amount":1}`) {
		t.Fatalf("%+v %s", d.Proposal, d.Detail)
	}
	p.approve(t, "a1", d)
	want(t, w.check(t, act(2.0, "a1")), policy.ReasonApproval, policy.PhaseHold)
	want(t, w.check(t, act("1", "a1")), policy.ReasonApproval, policy.PhaseHold)
	if d := w.check(t, act("\xff", "a1")); d.Allowed || d.Proposal != nil {
		t.Errorf("%+v", d)
	}
	how := func(properties map[string]any, id string) *policy.Attributes {
		a := act(1.0, id)
		a.Context = map[string]any{"x-approval": id, "ip": "192.0.2.7", "action_properties": properties}
		return a
	}
	want(t, w.check(t, how(map[string]any{"to": "mallory"}, "a1")), policy.ReasonApproval, policy.PhaseHold)
	want(t, w.check(t, act(1.0, "a1")), policy.ReasonAllowed, policy.PhaseRecord)

	// The properties of the action are as much of what is done as those of the resource.
	d = w.check(t, how(map[string]any{"to": "bob"}, ""))
	if d.Proposal == nil || !strings.Contains(d.Proposal.Text, `"action_properties":{"to":"bob"}`) {
		t.Fatalf("%+v %s", d.Proposal, d.Detail)
	}
	p.approve(t, "a2", d)
	want(t, w.check(t, how(map[string]any{"to": "mallory"}, "a2")), policy.ReasonApproval, policy.PhaseHold)
	want(t, w.check(t, act(1.0, "a2")), policy.ReasonApproval, policy.PhaseHold)
	if d := w.check(t, how(map[string]any{"to": "\xff"}, "a2")); d.Allowed || d.Proposal != nil {
		t.Errorf("%+v", d)
	}
	want(t, w.check(t, how(map[string]any{"to": "bob"}, "a2")), policy.ReasonAllowed, policy.PhaseRecord)
}

// What cannot be found out is no yes, and an approval with which nothing was done is
// given back.
func TestApprovalComesToNothing(t *testing.T) {
	t.Parallel()
	w, p := agreeing(t, policy.Route{Approval: policy.ApproverHuman, AuditFirst: true})
	money := &purse{holds: 9}
	w.cfg.Spender = money
	p.approve(t, "a1", w.check(t, pay()))

	p.fault = errors.New("the store is away")
	want(t, w.check(t, pay(showing("a1"))), policy.ReasonUnavailable, policy.PhaseSpend)
	p.fault = nil
	w.decider.verdict = &policy.Verdict{}
	want(t, w.check(t, pay(showing("a1"))), policy.ReasonPolicyDenied, policy.PhaseDecide)
	w.decider.verdict = &policy.Verdict{Allow: true}
	money.holds = 0
	want(t, w.check(t, pay(showing("a1"))), policy.ReasonBudgetExhausted, policy.PhaseSpend)
	money.holds = 9
	if len(p.used) != 0 {
		t.Fatal("a deny has used it up")
	}
	// No journal, and one that fails: A-15.
	want(t, w.check(t, pay(showing("a1"))), policy.ReasonAuditUnavailable, policy.PhaseRecord)
	journal := &notes{err: errors.New("no space left")}
	w.cfg.Journal = journal
	d := w.check(t, pay(showing("a1")))
	want(t, d, policy.ReasonAuditUnavailable, policy.PhaseRecord)
	if d.Approval != "" || d.Reservation != "" || len(p.used) != 0 || len(p.returned) != 2 || money.holds != 9 {
		t.Errorf("%+v, used %v, returned %v, %d left", d, p.used, p.returned, money.holds)
	}
	journal.err = nil
	d = w.check(t, pay(showing("a1")))
	want(t, d, policy.ReasonAllowed, policy.PhaseRecord)
	if len(journal.records) != 1 || journal.records[0].Decision.ID != d.ID || journal.records[0].Decision.Approval != "a1" || !journal.records[0].Decision.Allowed {
		t.Errorf("%+v", journal.records)
	}
}

// notes is a Journal that a test plays.
type notes struct {
	err     error
	records []audit.Record
}

func (n *notes) Write(_ context.Context, r *audit.Record) error {
	if n.err == nil {
		n.records = append(n.records, *r)
	}
	return n.err
}

// A route that does not ask for the journal does not wait for it.
func TestJournalIsNotForAll(t *testing.T) {
	t.Parallel()
	w, _ := agreeing(t, policy.Route{})
	w.cfg.Journal = &notes{err: errors.New("no space left")}
	want(t, w.check(t, request("x-api-key", "key")), policy.ReasonAllowed, policy.PhaseRecord)
}

// Nobody keeps approvals, or nobody is told what to approve: a deny all the same.
func TestApprovalWithoutAnybody(t *testing.T) {
	t.Parallel()
	w, p := agreeing(t, policy.Route{Approval: policy.ApproverHuman})
	p.approve(t, "a1", w.check(t, pay()))
	w.cfg.Propose = false
	if d := w.check(t, pay()); d.Proposal != nil || len(d.Client) > 0 {
		t.Errorf("%+v", d)
	}
	w.cfg.ApprovalHeader = ""
	want(t, w.check(t, pay(showing("a1"))), policy.ReasonApproval, policy.PhaseHold)
	w.cfg.ApprovalHeader, w.cfg.Agreements = "x-approval", nil
	want(t, w.check(t, pay(showing("a1"))), policy.ReasonApproval, policy.PhaseHold)
	// Over by the clock of this replica.
	w.cfg.Agreements, w.now = p, noon.Add(time.Minute)
	want(t, w.check(t, pay(showing("a1"))), policy.ReasonApproval, policy.PhaseHold)
	// Of somebody whom nobody knows, nothing is proposed.
	w.cfg.Routes[0].Anonymous, w.cfg.Propose = true, true
	if d := w.check(t, request()); d.Reason != policy.ReasonApproval || d.Proposal != nil {
		t.Errorf("%+v", d)
	}
}
