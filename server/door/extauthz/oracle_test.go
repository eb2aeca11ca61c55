package extauthz

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

// oracle is the straightforward door: generated types in, generated types out.
// The real one has to mean the same.
type oracle struct {
	authv3.UnimplementedAuthorizationServer
	door *Door
}

func (o oracle) Check(ctx context.Context, q *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a := oracleAttributes(q)
	a.Door, a.Caller = Name, door.Caller(ctx)
	dec := o.door.checker.Check(ctx, &a)
	door.Settle(&dec)
	return o.response(&dec, &a), nil
}

func oracleAttributes(q *authv3.CheckRequest) policy.Attributes {
	c := q.GetAttributes()
	h := c.GetRequest().GetHttp()
	a := policy.Attributes{
		Method: h.GetMethod(), Scheme: h.GetScheme(), Host: h.GetHost(), Protocol: h.GetProtocol(),
		Path:    h.GetPath(),
		Headers: oracleHeaders(h),
		Size:    -1,
		Source:  oracleEndpoint(c.GetSource()), Destination: oracleEndpoint(c.GetDestination()),
		Extensions: c.GetContextExtensions(),
		RequestID:  h.GetId(),
		Proxyless:  h.GetHost() == "" && h.GetScheme() == "",
	}
	if h != nil {
		a.Size = h.GetSize()
	}
	if t := c.GetRequest().GetTime(); t != nil && t.IsValid() {
		a.Time = t.AsTime()
	}
	for name, s := range c.GetMetadataContext().GetFilterMetadata() {
		if a.Metadata == nil {
			a.Metadata = map[string]any{}
		}
		a.Metadata[name] = s.AsMap()
	}
	if _, query, ok := strings.Cut(a.Path, "?"); h.GetQuery() != "" && !(ok && query == h.GetQuery()) {
		a.Path += "?" + h.GetQuery()
	}
	if h.GetFragment() != "" {
		a.Path += "#" + h.GetFragment()
	}
	if a.Body = h.GetRawBody(); len(a.Body) == 0 {
		a.Body = []byte(h.GetBody())
	} else if h.GetBody() != "" && h.GetBody() != string(a.Body) {
		a.BodyTruncated = true
	}
	if len(a.Body) == 0 {
		a.Body = nil
	}
	if v, n := a.Headers.Get("x-envoy-auth-partial-body"); n > 1 || n == 1 && v != "false" {
		a.BodyTruncated = true
	}
	if id, n := a.Headers.Get("x-request-id"); n == 1 {
		a.RequestID = id
	}
	if a.Method == "" && a.Host == "" && a.Scheme == "" && len(h.GetHeaders()) == 0 && len(h.GetHeaderMap().GetHeaders()) > 0 {
		if parts := strings.Split(h.GetPath(), "/"); len(parts) == 3 && parts[0] == "" {
			a.Method = "POST"
		}
	}
	return a
}

func oracleHeaders(h *authv3.AttributeContext_HttpRequest) policy.Headers {
	var all policy.Headers
	for _, f := range h.GetHeaderMap().GetHeaders() {
		name := oracleLower(f.GetKey())
		switch raw := string(f.GetRawValue()); {
		case raw == "":
			all = append(all, policy.Header{Name: name, Value: f.GetValue()})
		case f.GetValue() == "" || f.GetValue() == raw:
			all = append(all, policy.Header{Name: name, Value: raw})
		default:
			all = append(all, policy.Header{Name: name, Value: raw}, policy.Header{Name: name, Value: f.GetValue()})
		}
	}
	listed := slices.Clone(all)
	spellings := map[string]int{}
	for name := range h.GetHeaders() {
		spellings[oracleLower(name)]++
	}
	for name, value := range h.GetHeaders() {
		name = oracleLower(name)
		if joined, n := join(listed, name); n == 0 || joined != value || spellings[name] > 1 {
			all = append(all, policy.Header{Name: name, Value: value})
		}
	}
	return all
}

func join(list policy.Headers, name string) (string, int) {
	var values []string
	for _, h := range list {
		if h.Name == name {
			values = append(values, h.Value)
		}
	}
	return strings.Join(values, ","), len(values)
}

func oracleLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 32
		}
	}
	return string(b)
}

func oracleEndpoint(p *authv3.AttributeContext_Peer) policy.Endpoint {
	e := policy.Endpoint{Principal: p.GetPrincipal(), Certificate: p.GetCertificate(), Service: p.GetService(), Labels: p.GetLabels()}
	if s := p.GetAddress().GetSocketAddress(); s != nil {
		if ip, err := netip.ParseAddr(s.GetAddress()); err == nil {
			port := s.GetPortValue()
			if port > 65535 {
				port = 0
			}
			e.Address = netip.AddrPortFrom(ip, uint16(port))
		}
	}
	return e
}

func (o oracle) response(dec *policy.Decision, a *policy.Attributes) *authv3.CheckResponse {
	r := &authv3.CheckResponse{Status: &rpcstatus.Status{}, DynamicMetadata: oracleMetadata(dec)}
	if !dec.Allowed {
		den := o.door.refusals.Render(dec, a)
		r.Status.Code, r.Status.Message = int32(den.Code), den.Message
		denied := &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(den.Status)}, Body: den.Body}
		seen := map[string]bool{}
		for _, h := range den.Headers {
			if h.Name == "grpc-status" && a.Host == "" {
				continue
			}
			action := corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
			if seen[h.Name] {
				action = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
			}
			seen[h.Name] = true
			denied.Headers = append(denied.Headers, option(h, action))
		}
		if dec.Reason.Fault() && o.door.onFault == OnFaultErrorResponse {
			r.HttpResponse = &authv3.CheckResponse_ErrorResponse{ErrorResponse: denied}
		} else {
			r.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: denied}
		}
		return r
	}
	ok := &authv3.OkHttpResponse{}
	set := map[string]bool{}
	for _, h := range dec.Upstream {
		set[h.Name] = true
		ok.Headers = append(ok.Headers, option(h, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
	}
	for _, name := range dec.Remove {
		if !set[name] {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		}
	}
	for _, h := range dec.Client {
		ok.ResponseHeadersToAdd = append(ok.ResponseHeadersToAdd, option(h, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD))
	}
	if v := dec.Verdict; v != nil {
		for _, q := range v.SetQuery {
			ok.QueryParametersToSet = append(ok.QueryParametersToSet, &corev3.QueryParameter{Key: q.Name, Value: q.Value})
		}
		ok.QueryParametersToRemove = slices.Clone(v.RemoveQuery)
	}
	ok.QueryParametersToRemove = append(ok.QueryParametersToRemove, dec.RemoveQuery...)
	r.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: ok}
	return r
}

func option(h policy.Header, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: h.Name, Value: h.Value}, AppendAction: action}
}

func oracleMetadata(dec *policy.Decision) *structpb.Struct {
	own := map[string]any{"reason": dec.Reason.String()}
	put := func(m map[string]any, name, value string) {
		if value != "" {
			m[name] = value
		}
	}
	put(own, "decision_id", dec.ID)
	put(own, "policy_revision", dec.Revision)
	if p := dec.Principal; p != nil {
		who := map[string]any{}
		put(who, "id", p.ID)
		put(who, "kind", string(p.Kind))
		put(who, "tenant", p.Tenant)
		put(who, "method", string(p.Method))
		put(who, "issuer", p.Issuer)
		put(who, "credential_id", p.CredentialID)
		if p.Roles != nil {
			who["roles"] = list(p.Roles)
		}
		if p.Scopes != nil {
			who["scopes"] = list(p.Scopes)
		}
		own["principal"] = who
	}
	all := map[string]any{}
	if dec.Verdict != nil {
		for name, v := range dec.Verdict.Metadata {
			all[name] = v
		}
	}
	all["postern"] = own
	s, err := structpb.NewStruct(all)
	if err != nil {
		panic(err)
	}
	return s
}

func list(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}
