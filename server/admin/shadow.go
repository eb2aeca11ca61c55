package admin

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/audit"
)

// ListShadowDifferences implements the service. Counts are of all tenants, so who
// belongs to one sees only the differences of its own principals.
func (s *Decisions) ListShadowDifferences(ctx context.Context, _ *adminv1.ListShadowDifferencesRequest) (*adminv1.ListShadowDifferencesResponse, error) {
	var stats audit.ShadowStats
	found, enforced := false, ""
	if s.Shadow != nil {
		stats, enforced, found = s.Shadow()
	}
	if !found {
		return nil, &failure{
			reason:  adminv1.ErrorReason_ERROR_REASON_NOT_CONFIGURED,
			message: "there is no policy in the shadow: name one in policy.shadow",
		}
	}
	out := &adminv1.ListShadowDifferencesResponse{Revision: stats.Revision, EnforcedRevision: enforced}
	if !stats.Since.IsZero() {
		out.SinceTime = timestamppb.New(stats.Since)
	}
	tenant := ""
	if c := callOf(ctx); c != nil {
		tenant = c.principal.Tenant
	}
	if tenant == "" {
		out.Compared, out.Different, out.Dropped = stats.Compared, stats.Different, stats.Lost
		for _, k := range stats.Kinds {
			out.Counts = append(out.Counts, &adminv1.ShadowCount{Count: k.N, Change: k.Change, Rule: k.Rule, Route: k.Route})
		}
	}
	for i := range stats.Last {
		d := &stats.Last[i]
		if tenant != "" && d.Tenant != tenant {
			continue
		}
		out.Differences = append(out.Differences, &adminv1.ShadowDifference{
			Time: timestamppb.New(d.Time), DecisionId: d.ID, Route: d.Route, Change: d.Change,
			Enforced: outcome(&d.Live), Shadow: outcome(&d.Shadow),
		})
	}
	return out, nil
}

func outcome(o *audit.Outcome) *adminv1.ShadowOutcome {
	return &adminv1.ShadowOutcome{
		Outcome: o.Word, Reason: posternv1.Reason(o.Reason), Rule: o.Rule, File: o.File, Line: int32(o.Line),
		Revision: o.Revision, Error: o.Error,
	}
}
