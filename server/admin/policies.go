package admin

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/seal"
)

// PolicyState is the policy that this replica decides by.
type PolicyState struct {
	// Snapshot is it; nil for none.
	Snapshot *rego.Snapshot
	// Ready says whether it is used.
	Ready bool
	// Err is what is wrong with the newest.
	Err error
	// Config says how policies are read here.
	Config rego.Config
}

// maxDrafts is how many drafts are tried at a time.
const maxDrafts = 2

// policies serves PolicyService.
type policies struct {
	adminv1.UnimplementedPolicyServiceServer

	state     func() PolicyState
	decisions *Decisions
	desk      *author.Desk
}

// GetPolicy says which policy is in force. What is wrong with the newest can name files and
// rules of other tenants.
func (p *policies) GetPolicy(ctx context.Context, _ *adminv1.GetPolicyRequest) (*adminv1.GetPolicyResponse, error) {
	state := p.state()
	res := &adminv1.GetPolicyResponse{Ready: state.Ready}
	all := callOf(ctx).principal.Tenant == ""
	if state.Err != nil && all {
		res.Error = seal.Scrub(state.Err.Error())
	}
	s := state.Snapshot
	if s == nil {
		return res, nil
	}
	res.Revision, res.Entrypoint, res.ActivateTime = s.Revision, s.Entrypoint, timestamppb.New(s.Activated)
	if all {
		stats := s.Stats()
		res.CacheHits, res.CacheMisses, res.CacheEntries = stats.Hits, stats.Misses, stats.Entries
		res.Warnings = warningLines(s.Warnings)
	}
	return res, nil
}

func warningLines(warnings []rego.Problem) (all []string) {
	for _, w := range warnings {
		all = append(all, w.String())
	}
	return all
}

// TryPolicy asks a draft.
func (p *policies) TryPolicy(ctx context.Context, req *adminv1.TryPolicyRequest) (*adminv1.TryPolicyResponse, error) {
	draft := &author.Draft{Files: make(map[string]string, len(req.GetFiles())), Config: p.state().Config}
	var v invalid
	for _, f := range req.GetFiles() {
		if _, twice := draft.Files[f.GetName()]; twice {
			v.add("files", "names a file twice")
		}
		draft.Files[f.GetName()] = f.GetText()
	}
	if entry := req.GetEntrypoint(); entry != "" {
		draft.Config.Entrypoint = entry
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	res := &adminv1.TryPolicyResponse{}
	if err := p.ask(ctx, req, draft, res); err != nil {
		return nil, err
	}
	trial, err := p.desk.Try(ctx, draft)
	switch {
	case errors.Is(err, author.ErrBusy):
		return nil, &failure{reason: overloaded, message: err.Error()}
	case err != nil && ctx.Err() == nil:
		return nil, &failure{reason: overloaded, message: "the draft took too long, and was given up"}
	case err != nil:
		return nil, err
	}
	said(res, trial)
	return res, nil
}

// ask makes the question to a draft.
func (p *policies) ask(ctx context.Context, req *adminv1.TryPolicyRequest, draft *author.Draft, res *adminv1.TryPolicyResponse) error {
	if req.GetQuestion() == nil {
		return required("decision_id")
	}
	if text, ok := req.GetQuestion().(*adminv1.TryPolicyRequest_Request); ok {
		q, err := author.ReadQuestion("request", []byte(text.Request))
		if err == nil {
			draft.Input, err = q.Input()
		}
		if err != nil {
			var v invalid
			v.add("request", "cannot be asked: "+err.Error())
			return v.err()
		}
		return nil
	}
	r, err := p.decisions.find(ctx, req.GetDecisionId())
	if err != nil {
		return err
	}
	d := &r.Decision
	if d.Phase < policy.PhaseDecide && !d.Allowed {
		return untold("the policy was not asked: the phase " + d.Phase.String() + " refused the request")
	}
	if r.Method == "" {
		return untold("it is about an action, of which too little is remembered")
	}
	draft.Outline = &author.Outline{
		Time: r.Time, Method: r.Method, Host: r.Host, Path: r.Path, Client: r.ClientIP,
		Principal: d.Principal, Peer: d.Peer, Route: d.Route,
	}
	if draft.Input, err = draft.Outline.Input(); err != nil {
		return untold("its request cannot be read again")
	}
	res.Recorded = record(r)
	return nil
}

// untold is about a decision that no draft can be asked about.
func untold(why string) error {
	return &failure{reason: adminv1.ErrorReason_ERROR_REASON_WRONG_STATE, message: "a draft cannot be asked about this decision: " + why}
}

// said writes what became of a draft.
func said(res *adminv1.TryPolicyResponse, t *author.Trial) {
	res.CompileTime, res.DecideTime = durationpb.New(t.Compile.Round(time.Microsecond)), durationpb.New(t.Decide.Round(time.Microsecond))
	for _, problem := range t.Problems {
		res.Problems = append(res.Problems, &adminv1.PolicyProblem{
			File: problem.File, Line: int32(problem.Line), Column: int32(problem.Column), Text: problem.Text,
		})
	}
	res.Warnings, res.NotRecorded = warningLines(t.Warnings), t.NotRecorded
	if t.Fault != nil {
		res.Fault = t.Fault.Error()
		return
	}
	v := t.Verdict
	if v == nil {
		return
	}
	res.Allowed, res.Reason, res.Status, res.Message = v.Allow, posternv1.Reason(v.Reason), int32(author.Status(v)), seal.Scrub(author.Message(v))
	if v.Allow {
		res.Status = 200
	}
	res.MissingPermissions, res.MissingScopes, res.Grounds = v.MissingPermissions, v.MissingScopes, grounds(v)
}
