// Package check conducts a Check: seven phases, always in this order, each of
// which ends the check with a deny or lets it go on.
//
//	read    one canonical reading of the request, or 400
//	find    the credentials, in the configured places only
//	prove   whose they are: 401 if bad, 503 if that could not be found out
//	hold    what no policy can switch off: expiry, revocation, TLS, cookies that
//	        another site made a browser send, the credential's own limits, the
//	        route's demands
//	decide  what the policy says
//	spend   budgets, rates and approvals, after an allow only
//	record  what the route wants on disk first; decision ring, log, metrics
//
// A Checker is immutable. Live holds the one in force behind an atomic pointer;
// a reload builds and validates the next one aside and swaps it.
//
// Nothing gets out but a policy.Decision: a fault, a panic included, is a deny
// inside the protocol.
package check

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/canonical"
)

// Decider asks the policy (policy/rego.Engine). An error means that there is no
// answer; a nil verdict without an error is a deny as well. Cached says that the
// verdict came from a decision cache.
type Decider interface {
	Decide(ctx context.Context, in *policy.Input) (v *policy.Verdict, cached bool, err error)
	// Revision is the revision of the policy in force, empty if there is none.
	Revision() string
}

// Trust is what a caller of Postern is believed to say about its own clients.
// The zero Trust is nothing.
type Trust struct {
	// SourcePrincipal believes the identity and certificate of the client's
	// connection (Envoy source.principal and source.certificate).
	SourcePrincipal bool
	// Extensions believes the caller's own configuration of the route (Envoy
	// context_extensions) and what its earlier filters said (metadata_context).
	Extensions bool
	// XFCC believes x-forwarded-client-cert, in which Envoy says what certificate its
	// client showed; ClientCert the fields Client-Cert and Client-Cert-Chain (RFC 9440).
	// They are apart, because a gateway that sets one of them may pass on the other.
	XFCC, ClientCert bool
	// Subject believes whom it names for the principal without showing a credential.
	Subject bool
	// OwnCertificate takes the certificate with which the caller itself connected for
	// the client's: it asks for itself.
	OwnCertificate bool
	// Cost believes what it says in header fields that a request costs (Config.Cost).
	Cost bool
	// Models believes what it says of models and prompts (Config.ModelHeaders).
	Models bool
}

// Revocations knows which credentials no longer count, whoever signed them.
type Revocations interface {
	// Revoked returns the reason and true if the subject is revoked. It reads RAM
	// only.
	Revoked(s *authn.Subject) (policy.Reason, bool)
}

// Freshness says how far this replica can rely on what it knows of revocations.
type Freshness uint8

// The zero Freshness denies.
const (
	// Blind: what was revoked meanwhile may be good in its eyes.
	Blind Freshness = iota
	// Stale: the same, and the configuration wants an answer all the same.
	Stale
	// Fresh: it knows of everything but what was revoked a moment ago.
	Fresh
)

// Sight is what this replica had heard of changes when it was taken (mirror.View).
type Sight interface {
	// Freshness says how far what was read since can be relied on at an instant. The
	// check takes the sight first, then reads, and asks it last, with the clock as it
	// is then: a process that was stopped in between finds it old.
	Freshness(now time.Time) Freshness
}

// Tracer says which checks are part of a distributed trace (server/trace.Tracer).
type Tracer interface {
	// Begin fills in which trace the check is a part of, and reports whether it is part
	// of one. What it fills in may share memory with the request.
	Begin(ctx context.Context, a *policy.Attributes, t *audit.Trace) bool
}

// Config is what a Checker is made of. Reader, Extractor, Authenticator and
// Decider are required.
type Config struct {
	Reader        *canonical.Reader
	Extractor     *authn.Extractor
	Authenticator authn.Authenticator
	Decider       Decider
	// Peers may be nil: no certificate proves anything.
	Peers Peers
	// Possessions may be nil: tokens that are bound to a key are refused.
	Possessions Possessions
	// Targets may be nil: nobody looks at what a request would do.
	Targets Targets
	// Agents may be nil: there are none that are registered.
	Agents authn.Agents
	// ModelHeaders are the fields, in lower case, in which callers say which model is
	// asked, and of what category the prompt is.
	ModelHeaders []string
	// Agreements may be nil: nobody has agreed to anything.
	Agreements Agreements
	// ApprovalHeader is the field in which a request shows the id of an approval, in lower
	// case. ApprovedHeaders are further fields that are part of what a request does.
	// Propose has a deny say what must be approved (policy.Decision.Proposal).
	ApprovalHeader  string
	ApprovedHeaders []string
	Propose         bool
	// Rates and Spender may be nil: nothing is counted.
	Rates   Rates
	Spender Spender
	// Cost says in which header fields callers say what a request costs; empty for none.
	Cost []CostHeader
	// Limits says what clients are told of the limits that they are held to.
	Limits LimitHeaders
	// Journal may be nil: routes that ask for it (policy.Route.AuditFirst) deny.
	Journal Journal
	// MaxDepth is how many may act for one another, in any credential; DefaultDepth if 0.
	MaxDepth int
	// Zones are the network zones.
	Zones []Zone
	// MethodZones names the zones outside of which a method is not used at all.
	MethodZones map[policy.Method][]string
	// Revocations may be nil: nothing is revoked.
	Revocations Revocations
	// Sight takes one for each check with a credential; nil where nothing is followed
	// that could fall behind.
	Sight func() Sight
	// Recorder may be nil: nothing is recorded.
	Recorder audit.Recorder
	// Tracer may be nil: no check is part of a trace.
	Tracer Tracer
	// Trust says what each caller, by name, is believed to say. A caller that is
	// not listed is believed nothing, and the policy does not see what it says.
	Trust map[string]Trust
	// Routes are tried in order; the first that matches counts. A request that
	// matches none is held to the zero Route.
	Routes []policy.Route
	// Rules are the extraction rules, for challenges and for what to strip.
	Rules []authn.Rule
	// Audience names the service where the route does not; may be empty.
	Audience string
	// Realm is the realm of challenges (RFC 9110 section 11.5).
	Realm string
	// ResourceMetadata is the URL that challenges name where the route has none of its
	// own (RFC 9728 section 5.1); may be empty.
	ResourceMetadata string
	// Identity lists the header fields that tell the upstream who called.
	Identity []IdentityHeader
	// DecisionHeader is the field that tells the upstream the decision's id, and
	// ReservationHeader the one with the receipt of what was charged; empty for none.
	DecisionHeader, ReservationHeader string
	// IdentityToken may be nil: the upstream gets no token of Postern's.
	IdentityToken *IdentityToken
	// Reserved lists further header fields that a client may not set.
	Reserved []string
	// CSRF says which requests may use a credential that came in a cookie.
	CSRF CSRF
	// KeepCredential leaves the caller's credential on the upstream request.
	KeepCredential bool
	// InsecurePlaintext accepts credentials over connections without TLS on every
	// route.
	InsecurePlaintext bool
	// Quarantine, if set, is told of every good credential that was sent over
	// plaintext.
	Quarantine func(*policy.Principal)
	// Logger is for panics only.
	Logger *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Checker decides. Its zero value must not be used; see New.
type Checker struct {
	cfg     Config
	routes  []policy.Route
	noRoute policy.Route
	// challenges are those of each route, and last those of noRoute.
	challenges []challenges
	// folded are the routes for folded paths; foldedDiffer says that some are not
	// the same as routes.
	folded       []policy.Route
	foldedDiffer bool
	identity     identity
	ids          *ids
}

// New returns a Checker.
func New(cfg Config) *Checker {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Recorder == nil {
		cfg.Recorder = audit.Tee(nil)
	}
	c := &Checker{
		cfg:      cfg,
		routes:   cfg.Routes,
		noRoute:  policy.Route{ResourceMetadata: cfg.ResourceMetadata},
		identity: newIdentity(&cfg),
		ids:      newIDs(),
	}
	c.challenges = c.newChallenges()
	c.folded, c.foldedDiffer = foldRoutes(cfg.Routes)
	return c
}

// exchange is one check under way. Exchanges are pooled: nothing of one may be
// kept after the check but what is in the decision.
type exchange struct {
	attributes  *policy.Attributes
	request     policy.Request
	route       *policy.Route
	creds       []authn.Credential
	proofs      []*authn.Proof
	trust       Trust
	identifying bool         // the question is who calls Postern itself
	possession  error        // what was wrong with the DPoP proof
	forwarded   bool         // a certificate that its caller is not believed to forward was taken away
	token       string       // for the upstream; empty for none
	peer        *authn.Proof // nil: no workload was proven
	routeAt     int          // of route in routes; len(routes) for none of them
	input       policy.Input
	decision    policy.Decision
	now         time.Time
	sight       Sight // nil: nothing can have fallen behind
	target      *policy.Target
	agreement   *policy.Agreement
	message     string           // for the caller, in the place of the reason's own; empty for that
	cost        map[string]int64 // by unit, as the caller says
	charge      policy.Charge
	spent       policy.Spent
	rated, paid bool // counted by Rates, by Spender
	record      audit.Record
	trace       audit.Trace
	traced      bool // trace is filled in

	credsBuf  [authn.MaxCredentials]authn.Credential
	proofsBuf [authn.MaxCredentials]*authn.Proof
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// Check decides on one request. It takes from the attributes what their caller is
// not trusted to say (Config.Trust): whoever looks at them afterwards, the policy
// and the record first, sees what was believed.
func (c *Checker) Check(ctx context.Context, a *policy.Attributes) (d policy.Decision) {
	x := c.begin(ctx, a)
	defer func() {
		if p := recover(); p != nil {
			c.panicked(x)
		}
		c.undo(x)
		d = c.end(x)
	}()
	_ = x.awaited(ctx) &&
		c.read(x) &&
		c.find(x) &&
		c.enter(x, audit.StepProve) && c.prove(ctx, x) &&
		c.enter(x, audit.StepNone) && c.hold(x) &&
		c.enter(x, audit.StepDecide) && c.decide(ctx, x) && x.feasible() &&
		c.enter(x, audit.StepSign) && c.introduce(x) &&
		c.enter(x, audit.StepSpend) && c.spend(ctx, x) &&
		c.enter(x, audit.StepAgree) && c.approve(ctx, x) &&
		c.enter(x, audit.StepRecord) && x.awaited(ctx) && c.allow(x) && c.journal(ctx, x)
	return d
}

// enter notes when a step of a check begins, if that is of interest. It returns true.
func (c *Checker) enter(x *exchange, s audit.Step) bool {
	if x.trace.Sampled {
		x.trace.Enter(s, c.cfg.Now().Sub(x.now))
	}
	return true
}

// Authenticate finds and proves the credentials without asking any policy. An
// allow means no more than that the credential is good.
func (c *Checker) Authenticate(ctx context.Context, a *policy.Attributes) policy.Decision {
	d, _ := c.identify(ctx, a, false)
	return d
}

// Identity is what a good credential brings along besides its principal.
type Identity struct {
	// Limits are the credential's own, which the caller has to hold it to; nil for none.
	Limits *policy.Constraints
	// Origins is what a denylist may revoke of it, and of the credentials that it came
	// from: whatever is made of it must fall with each (authn.Proof.Origins).
	Origins []authn.Subject
}

// Identify does the same for somebody who asks Postern itself for something: the
// certificate of the connection is his own. The Identity is the zero one unless the
// decision is an allow.
func (c *Checker) Identify(ctx context.Context, a *policy.Attributes) (policy.Decision, Identity) {
	return c.identify(ctx, a, true)
}

func (c *Checker) identify(ctx context.Context, a *policy.Attributes, own bool) (d policy.Decision, who Identity) {
	x := c.begin(ctx, a)
	if x.identifying = own; own {
		x.trust = Trust{OwnCertificate: true}
	}
	x.forwarded = x.trust.strip(a)
	defer func() {
		if p := recover(); p != nil {
			c.panicked(x)
		}
		d = c.end(x)
	}()
	x.route, x.routeAt = &c.noRoute, len(c.routes)
	if x.awaited(ctx) &&
		c.find(x) &&
		c.enter(x, audit.StepProve) && c.prove(ctx, x) &&
		c.enter(x, audit.StepNone) && c.fresh(x) && c.chained(x) && x.awaited(ctx) && c.authenticated(x) {
		if p := x.proofs[0]; own {
			who = Identity{Limits: c.limitsOf(p), Origins: originsOf(p)}
		}
	}
	return d, who
}

func (c *Checker) begin(ctx context.Context, a *policy.Attributes) *exchange {
	x := exchanges.Get().(*exchange)
	x.attributes, x.now = a, c.cfg.Now()
	if c.cfg.Tracer != nil {
		x.traced = c.cfg.Tracer.Begin(ctx, a, &x.trace)
	}
	x.routeAt, x.trust = len(c.routes), c.cfg.Trust[a.Caller]
	x.creds, x.proofs = x.credsBuf[:0], x.proofsBuf[:0]
	x.decision = policy.Decision{ID: c.ids.next(), Revision: c.cfg.Decider.Revision(), State: policy.StateNone}
	return x
}

// end completes the decision, records it and gives the exchange back, empty: a
// pooled exchange must not keep a credential or the memory of a request.
func (c *Checker) end(x *exchange) policy.Decision {
	d := &x.decision
	c.unused(x)
	c.answer(x)
	c.note(x)
	x.trace.Enter(audit.StepNone, x.record.Latency)
	x.input = policy.Input{Attributes: x.attributes, Request: &x.request, Principal: d.Principal, Peer: d.Peer, Route: d.Route, Target: x.target, Agreement: x.agreement}
	x.record.Input = &x.input
	c.cfg.Recorder.Record(&x.record)
	out := *d
	segments, zones := x.request.Segments[:0], x.request.Zones[:0]
	clear(segments[:cap(segments)])
	*x = exchange{}
	x.request.Segments, x.request.Zones = segments, zones
	exchanges.Put(x)
	return out
}

// note makes the record of the exchange as it is now.
func (c *Checker) note(x *exchange) *audit.Record {
	x.record = audit.Record{
		Time: x.now, Latency: c.cfg.Now().Sub(x.now), Decision: x.decision,
		Door: x.attributes.Door, Caller: x.attributes.Caller, RequestID: x.attributes.RequestID,
		Method: x.request.Method, Host: x.request.Host, Path: x.request.Path, ClientIP: x.request.ClientIP,
	}
	if len(x.creds) > 0 {
		x.record.Found = x.creds[0].From
	}
	if x.traced {
		x.record.Trace = &x.trace
	}
	return &x.record
}

// panicked makes the check a deny. The panic's text may hold anything that the
// request held, so only the stack is logged.
func (c *Checker) panicked(x *exchange) {
	phase := x.decision.Phase
	x.decision = policy.Decision{ID: x.decision.ID, Revision: x.decision.Revision, State: x.decision.State, Phase: phase}
	x.deny(policy.ReasonInternal, "panic")
	c.cfg.Logger.Error("panic in a check", "phase", phase.String(), "decision_id", x.decision.ID, "stack", string(debug.Stack()))
}

// awaited ends a check whose caller has gone, or whose time is over: nobody gets the
// answer. Under overload that is what keeps work from being done in vain; and no allow is
// recorded, or charged, of which nobody has heard.
func (x *exchange) awaited(ctx context.Context) bool {
	if err := ctx.Err(); err != nil {
		return x.deny(policy.ReasonUnavailable, "nobody waits for the answer any more: "+err.Error())
	}
	return true
}

// deny ends the check. Detail is for the log only. It returns false, so that a
// phase can end with it.
func (x *exchange) deny(reason policy.Reason, detail string) bool {
	x.decision.Allowed = false
	x.decision.Reason = reason
	x.decision.Detail = detail
	x.message = ""
	return false
}
