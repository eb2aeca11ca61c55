package admin

import (
	"context"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
)

// Decisions serves the decisions that the ring remembers.
type Decisions struct {
	adminv1.UnimplementedDecisionServiceServer

	// Ring is where they are.
	Ring *audit.Ring
	// Shadow returns how the policy in the shadow agrees with the one in force, and the
	// revision of that; false if there is none. May be nil: there is none.
	Shadow func() (stats audit.ShadowStats, enforced string, found bool)
	// Ending is closed when the server stops, which ends those who watch; nil: never.
	Ending <-chan struct{}

	watchers watchers
}

// Bounds of a listing, in decisions.
const (
	defaultPage = 50
	maxPage     = 1000
)

// GetDecision returns a decision and its phases.
func (s *Decisions) GetDecision(ctx context.Context, req *adminv1.GetDecisionRequest) (*adminv1.GetDecisionResponse, error) {
	r, err := s.find(ctx, req.GetDecisionId())
	if err != nil {
		return nil, err
	}
	found := record(r)
	found.Grounds = grounds(r.Decision.Verdict)
	if c := callOf(ctx); c != nil && c.principal.Tenant != "" {
		for _, f := range found.Grounds.GetFailed() {
			f.Expression = "" // the text of the policy may speak of other tenants
		}
	}
	return &adminv1.GetDecisionResponse{Record: found, Steps: steps(r)}, nil
}

// find looks a decision up that the caller may see.
func (s *Decisions) find(ctx context.Context, id string) (*audit.Record, error) {
	if id == "" {
		return nil, required("decision_id")
	}
	r, ok := s.Ring.Find(id)
	if !ok || !sees(ctx, &r.Decision) {
		return nil, &failure{reason: notFound, message: "this replica does not remember that decision: it may be too old, or another replica made it"}
	}
	return &r, nil
}

// decisionPages makes the tokens of this replica's decisions, which no other one has.
var decisionPages = registry.NewPages(nil)

// ListDecisions lists recent decisions, newest first. The page token says how
// many matching decisions to skip: the ring moves on while a reader pages,
// so a decision may show up twice, but none is left out.
func (s *Decisions) ListDecisions(ctx context.Context, req *adminv1.ListDecisionsRequest) (*adminv1.ListDecisionsResponse, error) {
	var v invalid
	size, skip := v.pageSize(req.GetPageSize()), 0
	if err := v.err(); err != nil {
		return nil, err
	}
	query, err := proto.MarshalOptions{Deterministic: true}.Marshal(req.GetFilter())
	if err != nil {
		return nil, err
	}
	after, err := decisionPages.After(req.GetPageToken(), query)
	if err != nil {
		return nil, err
	}
	if after != "" {
		if skip, err = strconv.Atoi(after); err != nil {
			return nil, err // what we made ourselves
		}
	}
	match := matcher(req.GetFilter())
	records := s.Ring.Last(skip+size+1, func(d *policy.Decision) bool { return match(d) && sees(ctx, d) })
	res := &adminv1.ListDecisionsResponse{}
	records = records[min(skip, len(records)):]
	if len(records) > size {
		records = records[:size]
		res.NextPageToken = decisionPages.Token(strconv.Itoa(skip+size), query)
	}
	for i := range records {
		res.Decisions = append(res.Decisions, record(&records[i]))
	}
	return res, nil
}

// sees reports whether the caller may see a decision: those of a tenant see those of
// its own principals.
func sees(ctx context.Context, d *policy.Decision) bool {
	c := callOf(ctx)
	return c == nil || c.principal.Tenant == "" || d.Principal != nil && d.Principal.Tenant == c.principal.Tenant
}

func matcher(f *adminv1.DecisionFilter) func(*policy.Decision) bool {
	reasons := map[posternv1.Reason]bool{} // a caller may list millions, and a check may wait meanwhile
	for _, r := range f.GetReasons() {
		reasons[r] = true
	}
	return func(d *policy.Decision) bool {
		p := d.Principal
		if p == nil {
			p = &policy.Principal{}
		}
		return (f.GetAllowed() == d.Allowed || f == nil || f.Allowed == nil) &&
			(len(f.GetReasons()) == 0 || reasons[posternv1.Reason(d.Reason)]) &&
			(f.GetTenant() == "" || f.GetTenant() == p.Tenant) &&
			(f.GetPrincipalId() == "" || f.GetPrincipalId() == p.ID) &&
			(f.GetRoute() == "" || d.Route != nil && f.GetRoute() == d.Route.Name)
	}
}

func record(r *audit.Record) *adminv1.DecisionRecord {
	d := &r.Decision
	out := &adminv1.DecisionRecord{
		Time:            timestamppb.New(r.Time),
		Decision:        door.DecisionProto(d),
		Principal:       door.PrincipalProto(d.Principal),
		Latency:         durationpb.New(r.Latency),
		Cached:          d.Cached,
		Door:            r.Door,
		Caller:          r.Caller,
		RequestId:       r.RequestID,
		Method:          r.Method,
		Host:            r.Host,
		Path:            r.Path,
		CredentialPlace: r.Found,
		Phase:           d.Phase.String(),
		Detail:          d.Detail,
	}
	if r.ClientIP.IsValid() {
		out.ClientIp = r.ClientIP.String()
	}
	if d.Route != nil {
		out.Route = d.Route.Name
	}
	return out
}

// grounds are those of a policy's deny. What clients have put into places that are
// shown, such as a key into the path, is taken out.
func grounds(v *policy.Verdict) *adminv1.PolicyGrounds {
	if v == nil || v.Allow {
		return nil
	}
	out := &adminv1.PolicyGrounds{Rule: v.Rule, File: v.File, Line: int32(v.Line)}
	g := v.Grounds
	if g == nil {
		return out
	}
	for i := range g.Reads {
		r := &g.Reads[i]
		out.Reads = append(out.Reads, &adminv1.PolicyReading{Path: r.Path, Value: seal.Scrub(r.Value), Absent: r.Absent, Masked: r.Masked})
	}
	for i := range g.Failed {
		f := &g.Failed[i]
		out.Failed = append(out.Failed, &adminv1.FailedExpression{Rule: f.Rule, File: f.File, Line: int32(f.Line), Expression: seal.Scrub(f.Expression)})
	}
	out.MoreReads, out.MoreFailed = int32(g.MoreReads), int32(g.MoreFailed)
	return out
}

// steps tells the story of a decision, phase by phase.
func steps(r *audit.Record) []*adminv1.Step {
	var all []*adminv1.Step
	for phase := policy.PhaseRead; phase <= policy.PhaseRecord; phase++ {
		s := &adminv1.Step{Phase: phase.String()}
		switch d := &r.Decision; {
		case phase < d.Phase || d.Allowed:
			s.Outcome, s.Message = adminv1.StepOutcome_STEP_OUTCOME_PASSED, passed(r, phase)
		case phase == d.Phase:
			s.Outcome, s.Message = adminv1.StepOutcome_STEP_OUTCOME_FAILED, failed(d)
		case phase == policy.PhaseRecord:
			s.Outcome = adminv1.StepOutcome_STEP_OUTCOME_PASSED
		default:
			s.Outcome = adminv1.StepOutcome_STEP_OUTCOME_SKIPPED
		}
		all = append(all, s)
	}
	return all
}

func passed(r *audit.Record, phase policy.Phase) string {
	d := &r.Decision
	switch phase {
	case policy.PhaseRead:
		return strings.TrimSpace(r.Method + " " + r.Host + r.Path)
	case policy.PhaseFind:
		if r.Found == "" {
			return withoutCredential(d.Principal)
		}
		return "credential in " + r.Found
	case policy.PhaseProve:
		if p := d.Principal; p != nil {
			return strings.TrimSpace(string(p.Kind)+" "+strconv.Quote(p.ID)) + " by " + string(p.Method)
		}
	case policy.PhaseHold:
		if d.Route != nil && d.Route.Name != "" {
			return "route " + d.Route.Name
		}
	case policy.PhaseDecide:
		if d.Cached {
			return "policy " + d.Revision + ", from the decision cache"
		}
		return "policy " + d.Revision
	}
	return ""
}

// withoutCredential says why a request without a credential goes on; p is who it turned
// out to come from, nil if that was not proven.
func withoutCredential(p *policy.Principal) string {
	switch {
	case p == nil:
		return "no credential in the request"
	case p.Kind == policy.KindAnonymous:
		return "no credential; the route takes anonymous callers"
	case p.Method == policy.MethodAsserted:
		return strings.TrimSpace("no credential; the caller "+p.Issuer) + " vouches for the subject"
	}
	return "no credential but that of the connection"
}

func failed(d *policy.Decision) string {
	parts := []string{d.Reason.String()}
	if d.Detail != "" {
		parts = append(parts, d.Detail)
	}
	if len(d.MissingScopes) > 0 {
		parts = append(parts, "missing scopes: "+strings.Join(d.MissingScopes, " "))
	}
	if len(d.MissingPermissions) > 0 {
		parts = append(parts, "missing permissions: "+strings.Join(d.MissingPermissions, " "))
	}
	if v := d.Verdict; v != nil && v.File != "" {
		parts = append(parts, v.Rule+" at "+v.File+":"+strconv.Itoa(v.Line))
	}
	return strings.Join(parts, "; ")
}
