package door

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
)

// DecisionProto writes a Decision. The enforcement point gets the exact reason; what
// it may show to the end client are http_status and message.
func DecisionProto(d *policy.Decision) *posternv1.Decision {
	m := &posternv1.Decision{
		Allowed:         d.Allowed,
		Reason:          reason(d.Reason),
		Message:         valid(message(d)),
		HttpStatus:      uint32(httpStatus(d)),
		ResponseHeaders: responseHeaders(d),
		CacheTtl:        duration(d.CacheTTL),
		RetryDelay:      duration(d.RetryAfter),
		DecisionId:      valid(d.ID),
		PolicyRevision:  valid(d.Revision),

		MissingScopes:      texts(d.MissingScopes),
		MissingPermissions: texts(d.MissingPermissions),
		Budgets:            BudgetsProto(d.Budgets),
	}
	if d.Allowed {
		m.UpstreamHeaders = headerFields(d.Upstream)
		m.HeadersToRemove = texts(d.Remove)
		m.Reservation = valid(d.Reservation)
		m.ApprovalId = valid(d.Approval)
	}
	if p := d.Proposal; p != nil && !d.Allowed {
		m.Proposal = &posternv1.Proposal{Action: valid(p.Action), Text: valid(p.Text)}
	}
	if v := d.Verdict; v != nil {
		m.Obligations = obligations(v.Obligations)
		if !d.Allowed {
			m.Rule = rule(v)
		}
	}
	return m
}

// BudgetsProto writes what is left of budgets and rates.
func BudgetsProto(list []policy.BudgetState) []*posternv1.BudgetState {
	all := make([]*posternv1.BudgetState, 0, len(list))
	for i := range list {
		s := &list[i]
		all = append(all, &posternv1.BudgetState{
			Budget: valid(s.Name), Unit: valid(s.Unit), Limit: s.Limit, Remaining: s.Remaining,
			Window: duration(s.Window), ResetDelay: duration(s.Reset),
		})
	}
	return all
}

// reason relies on the numbers of both enumerations being the same, which a test
// holds fast.
func reason(r policy.Reason) posternv1.Reason {
	if _, known := posternv1.Reason_name[int32(r)]; !known {
		return posternv1.Reason_REASON_UNSPECIFIED
	}
	return posternv1.Reason(r)
}

func message(d *policy.Decision) string {
	if d.Message != "" {
		return d.Message
	}
	return d.Reason.Message()
}

// httpStatus never lets a deny look like a success.
func httpStatus(d *policy.Decision) int {
	if d.Status == 0 || !d.Allowed && !refuses(d.Status) {
		return d.Reason.Status()
	}
	return d.Status
}

// responseHeaders are what a gateway adds to its answer to the client: the
// policy's fields, and with a deny the challenges and when to try again.
func responseHeaders(d *policy.Decision) []*posternv1.Header {
	if d.Allowed {
		return headerFields(d.Client)
	}
	fields := slices.Clone(d.Client)
	for _, c := range d.Challenges {
		fields = append(fields, policy.Header{Name: "www-authenticate", Value: c})
	}
	if d.RetryAfter > 0 {
		fields = append(fields, policy.Header{Name: "retry-after", Value: strconv.FormatInt(RetrySeconds(d.RetryAfter), 10)})
	}
	return headerFields(fields)
}

// headerFields leaves out what cannot be sent; an allow has no such field.
func headerFields(h []policy.Header) []*posternv1.Header {
	var all []*posternv1.Header
	for _, f := range h {
		if Sendable(f) {
			all = append(all, &posternv1.Header{Name: f.Name, Value: f.Value})
		}
	}
	return all
}

func obligations(list []policy.Obligation) []*posternv1.Obligation {
	var all []*posternv1.Obligation
	for _, o := range list {
		all = append(all, &posternv1.Obligation{Type: valid(o.Type), Parameters: structOf(o.Parameters)})
	}
	return all
}

func rule(v *policy.Verdict) *posternv1.RuleLocation {
	if v.Rule == "" && v.File == "" {
		return nil
	}
	return &posternv1.RuleLocation{Rule: valid(v.Rule), File: valid(v.File), Line: int32(v.Line)}
}

// PrincipalProto writes a Principal; nil for none.
func PrincipalProto(p *policy.Principal) *posternv1.Principal {
	if p == nil {
		return nil
	}
	m := &posternv1.Principal{
		Id:           valid(p.ID),
		Kind:         kinds[p.Kind],
		Tenant:       valid(p.Tenant),
		Roles:        texts(p.Roles),
		Scopes:       texts(p.Scopes),
		Permissions:  texts(p.Permissions),
		Method:       valid(string(p.Method)),
		CredentialId: valid(p.CredentialID),
		Issuer:       valid(p.Issuer),
		Assurance:    int32(p.Assurance),
		Claims:       structOf(p.Claims),
		Metadata:     structOf(p.Metadata),
	}
	if !p.ExpiresAt.IsZero() {
		m.ExpireTime = timestamppb.New(p.ExpiresAt)
	}
	for _, a := range p.Actors {
		m.Actors = append(m.Actors, &posternv1.Actor{Id: valid(a.ID), Kind: kinds[a.Kind]})
	}
	return m
}

var kinds = map[policy.Kind]posternv1.PrincipalKind{
	policy.KindUser:      posternv1.PrincipalKind_PRINCIPAL_KIND_USER,
	policy.KindService:   posternv1.PrincipalKind_PRINCIPAL_KIND_SERVICE,
	policy.KindAgent:     posternv1.PrincipalKind_PRINCIPAL_KIND_AGENT,
	policy.KindDevice:    posternv1.PrincipalKind_PRINCIPAL_KIND_DEVICE,
	policy.KindAnonymous: posternv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS,
}

func duration(d time.Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(d)
}

func texts(list []string) []string {
	var all []string
	for _, s := range list {
		all = append(all, valid(s))
	}
	return all
}

func structOf(m map[string]any) *structpb.Struct {
	if len(m) == 0 {
		return nil
	}
	return valueOf(m, 0).GetStructValue()
}

func valueOf(v any, depth int) *structpb.Value {
	switch v := JSON(v).(type) {
	case bool:
		return structpb.NewBoolValue(v)
	case float64:
		return structpb.NewNumberValue(v)
	case string:
		return structpb.NewStringValue(valid(v))
	case []any:
		if depth < MaxDepth {
			list := &structpb.ListValue{Values: make([]*structpb.Value, len(v))}
			for i, element := range v {
				list.Values[i] = valueOf(element, depth+1)
			}
			return structpb.NewListValue(list)
		}
	case map[string]any:
		if depth < MaxDepth {
			s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(v))}
			for name, member := range v {
				s.Fields[valid(name)] = valueOf(member, depth+1)
			}
			return structpb.NewStructValue(s)
		}
	}
	return structpb.NewNullValue()
}

// valid replaces what is not UTF-8, which no protobuf text may hold: grpc-go
// would make an error of the answer.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
