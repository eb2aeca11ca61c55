package grpc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/structpb"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/door"
)

// reader turns questions into Attributes and notes what is wrong with them. A
// violation names the field and never its value.
type reader struct {
	violations []*errdetails.BadRequest_FieldViolation
}

// violation says what is wrong with a field.
func (r *reader) violation(field, description string) {
	r.violations = append(r.violations, &errdetails.BadRequest_FieldViolation{Field: field, Description: description})
}

// attributes reads one question; prefix is where in the message it stands.
func (r *reader) attributes(c *posternv1.Credential, t *posternv1.Target, context *structpb.Struct, prefix string) *policy.Attributes {
	a := &policy.Attributes{Presented: presented(c), Tenant: t.GetTenant(), Context: r.object(context, prefix+"context"), Size: -1}
	prefix += "target"
	switch kind := t.GetKind().(type) {
	case *posternv1.Target_Http:
		r.http(a, kind.Http, prefix+".http.")
	case *posternv1.Target_Grpc:
		r.grpc(a, kind.Grpc, prefix+".grpc.")
	case *posternv1.Target_Action:
		r.action(a, kind.Action, prefix+".action.")
	default:
		r.violation(prefix, "is required")
	}
	return a
}

// presented reads the credential. One that was given and is empty stays one: it
// must not make Postern look elsewhere.
func presented(c *posternv1.Credential) *policy.Presented {
	switch kind := c.GetKind().(type) {
	case *posternv1.Credential_ApiKey:
		return &policy.Presented{Use: "api_key", Secret: policy.NewSecret(kind.ApiKey)}
	case *posternv1.Credential_BearerToken:
		return &policy.Presented{Use: "bearer", Secret: policy.NewSecret(kind.BearerToken)}
	}
	if c != nil { // a kind that this version does not know
		return &policy.Presented{}
	}
	return nil
}

func (r *reader) http(a *policy.Attributes, t *posternv1.HttpTarget, at string) {
	a.Method, a.Host, a.Path, a.Scheme = t.GetMethod(), t.GetHost(), t.GetPath(), t.GetScheme()
	a.Headers = headers(t.GetHeaders())
	a.Body, a.BodyTruncated = t.GetBody(), t.GetBodyTruncated()
	a.Source.Address = r.address(t.GetSourceIp(), at+"source_ip")
}

// grpc reads a gRPC call as the HTTP request that it is on the wire.
func (r *reader) grpc(a *policy.Attributes, t *posternv1.GrpcTarget, at string) {
	const contentType = "content-type"
	a.Method, a.Path, a.Protocol = "POST", "/"+t.GetService()+"/"+t.GetMethod(), "HTTP/2"
	a.Headers = headers(t.GetMetadata())
	if _, n := a.Headers.Get(contentType); n == 0 {
		a.Headers = append(a.Headers, policy.Header{Name: contentType, Value: "application/grpc"})
	}
	a.Source.Address = r.address(t.GetSourceIp(), at+"source_ip")
	r.require(t.GetService(), at+"service")
	r.require(t.GetMethod(), at+"method")
}

func (r *reader) action(a *policy.Attributes, t *posternv1.ActionTarget, at string) {
	a.Action = &policy.Action{
		Name: t.GetAction(), ResourceType: t.GetResourceType(), ResourceID: t.GetResourceId(),
		Properties: r.object(t.GetProperties(), at+"properties"),
	}
	r.require(a.Action.Name, at+"action")
}

func (r *reader) require(value, field string) {
	if value == "" {
		r.violation(field, "is required")
	}
}

func (r *reader) address(ip, field string) netip.AddrPort {
	if ip == "" {
		return netip.AddrPort{}
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		r.violation(field, "is not an IP address")
	}
	return netip.AddrPortFrom(addr, 0)
}

// The units in which a request can say what it costs, and a report what was used.
var (
	costUnits = budget.Unit("").Values()
	useUnits  = []string{"tokens", "input_tokens", "output_tokens", "micros"}
)

// cost reads what a request costs. What is 0 is not said: the request then costs what it
// would otherwise.
func (r *reader) cost(all map[string]int64, field string) map[string]int64 {
	all = r.amounts(all, field, costUnits)
	var said map[string]int64
	for unit, n := range all {
		if n == 0 {
			continue
		}
		if said == nil {
			said = make(map[string]int64, len(all))
		}
		said[unit] = n
	}
	return said
}

// amounts reads what something costs, by unit.
func (r *reader) amounts(all map[string]int64, field string, units []string) map[string]int64 {
	for unit, n := range all {
		switch {
		case !slices.Contains(units, unit):
			r.violation(field, "has units other than "+strings.Join(units, ", "))
			return nil
		case n < 0 || n > budget.MaxAmount:
			r.violation(field+"["+unit+"]", fmt.Sprintf("must be 0 to %d", int64(budget.MaxAmount)))
			return nil
		}
	}
	return all
}

func headers(fields []*posternv1.HeaderField) policy.Headers {
	if len(fields) == 0 {
		return nil
	}
	all := make(policy.Headers, len(fields))
	for i, f := range fields {
		all[i] = policy.Header{Name: door.Lower(f.GetName()), Value: f.GetValue()}
	}
	return all
}

// maxDepth is how deep facts may be nested: whoever reads them, a policy, goes down with
// them. The messages themselves may be nested 10,000 deep.
const maxDepth = 32

// object reads facts for the policy.
func (r *reader) object(s *structpb.Struct, field string) map[string]any {
	if s == nil {
		return nil
	}
	if tooDeep(s, maxDepth) {
		r.violation(field, fmt.Sprintf("is nested more than %d deep", maxDepth))
		return nil
	}
	return s.AsMap()
}

// tooDeep reports whether there are more than so many objects and lists in each other.
func tooDeep(s *structpb.Struct, left int) bool {
	if left == 0 {
		return true
	}
	for _, v := range s.GetFields() {
		if isTooDeep(v, left-1) {
			return true
		}
	}
	return false
}

func isTooDeep(v *structpb.Value, left int) bool {
	switch kind := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		return tooDeep(kind.StructValue, left)
	case *structpb.Value_ListValue:
		if left == 0 {
			return true
		}
		for _, item := range kind.ListValue.GetValues() {
			if isTooDeep(item, left-1) {
				return true
			}
		}
	}
	return false
}
