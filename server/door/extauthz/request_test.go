package extauthz

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
)

var compare = gocmp.Options{
	gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.EquateEmpty(), // a generated map may be empty and not nil
}

func read(wire []byte) (policy.Attributes, error) {
	q := newRequest()
	q.read(wire)
	return q.attributes, q.err
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// sorted puts the fields into an order, because a generated map has none.
func sorted(h policy.Headers) policy.Headers {
	h = slices.Clone(h)
	slices.SortFunc(h, func(a, b policy.Header) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Value, b.Value))
	})
	return h
}

// contains reports whether every field of part is in all.
func contains(all, part policy.Headers) bool {
	all = slices.Clone(all)
	for _, h := range part {
		i := slices.Index(all, h)
		if i < 0 {
			return false
		}
		all = slices.Delete(all, i, i+1)
	}
	return true
}

// full has a value in every field that Postern reads.
func full() *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{
			Address:   socket("192.0.2.5", 40000),
			Principal: "spiffe://example.com/web", Certificate: "-----BEGIN%20CERTIFICATE-----",
			Service: "web", Labels: map[string]string{"app": "web", "tier": "front"},
		},
		Destination: &authv3.AttributeContext_Peer{Address: socket("2001:db8::1", 443)},
		Request: &authv3.AttributeContext_Request{
			Time: &timestamppb.Timestamp{Seconds: 1_700_000_000, Nanos: 5},
			Http: &authv3.AttributeContext_HttpRequest{
				Id: "stream-1", Method: "POST", Path: "/api/v1/things?x=1", Host: "api.test:8443", Scheme: "https",
				Protocol: "HTTP/2", Size: 4, Body: "body",
				Headers: map[string]string{":authority": "api.test:8443", "Authorization": "Bearer abc", "x-request-id": "req-1", "accept": "*/*"},
			},
		},
		ContextExtensions: map[string]string{"route": "things"},
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			"envoy.filters.http.jwt_authn": must(structpb.NewStruct(map[string]any{
				"n": 1.5, "s": "x", "b": true, "null": nil, "list": []any{"a", 1.0, []any{}}, "object": map[string]any{"k": "v"},
			})),
		}},
	}}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func socket(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func raw(pairs ...string) *corev3.HeaderMap {
	m := &corev3.HeaderMap{}
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return m
}

// http returns a request of which only the HTTP part is set.
func http(h *authv3.AttributeContext_HttpRequest) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: h}}}
}

// Every field arrives where it belongs.
func TestRequestFields(t *testing.T) {
	got, err := read(marshal(t, full()))
	if err != nil {
		t.Fatal(err)
	}
	got.Headers = sorted(got.Headers)
	want := policy.Attributes{
		RequestID: "req-1",
		Time:      time.Unix(1_700_000_000, 5).UTC(),
		Method:    "POST", Scheme: "https", Host: "api.test:8443", Path: "/api/v1/things?x=1", Protocol: "HTTP/2",
		Headers: policy.Headers{
			{Name: ":authority", Value: "api.test:8443"},
			{Name: "accept", Value: "*/*"},
			{Name: "authorization", Value: "Bearer abc"},
			{Name: "x-request-id", Value: "req-1"},
		},
		Body: []byte("body"), Size: 4,
		Source: policy.Endpoint{
			Address:   netip.MustParseAddrPort("192.0.2.5:40000"),
			Principal: "spiffe://example.com/web", Certificate: "-----BEGIN%20CERTIFICATE-----",
			Service: "web", Labels: map[string]string{"app": "web", "tier": "front"},
		},
		Destination: policy.Endpoint{Address: netip.MustParseAddrPort("[2001:db8::1]:443")},
		Extensions:  map[string]string{"route": "things"},
		Metadata: map[string]any{"envoy.filters.http.jwt_authn": map[string]any{
			"n": 1.5, "s": "x", "b": true, "null": nil, "list": []any{"a", 1.0, []any{}}, "object": map[string]any{"k": "v"},
		}},
	}
	if diff := gocmp.Diff(want, got, compare); diff != "" {
		t.Error(diff)
	}
}

// Forms that gateways and attackers send, each with what must come of it.
func TestRequestForms(t *testing.T) {
	type form struct {
		name string
		in   *authv3.CheckRequest
		ok   func(*policy.Attributes) bool
	}
	header := func(a *policy.Attributes, name string, values ...string) bool {
		var got []string
		for _, h := range a.Headers {
			if h.Name == name {
				got = append(got, h.Value)
			}
		}
		return slices.Equal(got, values)
	}
	peer := func(addr *corev3.Address) *authv3.CheckRequest {
		return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{Address: addr}}}
	}
	for _, f := range []form{
		{"nothing at all", &authv3.CheckRequest{}, func(a *policy.Attributes) bool { return a.Method == "" && a.Size == -1 }},
		{"no http", &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{}}},
			func(a *policy.Attributes) bool { return a.Path == "" && a.Size == -1 }},
		{"duplicates are kept in header_map", http(&authv3.AttributeContext_HttpRequest{HeaderMap: raw("X-Api-Key", "a", "x-api-key", "b")}),
			func(a *policy.Attributes) bool { return header(a, "x-api-key", "a", "b") }},
		{"two spellings in the map are two fields", http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"X-A": "1", "x-a": "1"}}),
			func(a *policy.Attributes) bool { return header(a, "x-a", "1", "1") }},
		{"the Kelvin sign is no k", http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"x-api-\u212Aey": "1"}}),
			func(a *policy.Attributes) bool { return header(a, "x-api-key") }},
		{"raw_value need not be UTF-8", http(&authv3.AttributeContext_HttpRequest{HeaderMap: raw("x", "\xff")}),
			func(a *policy.Attributes) bool { return header(a, "x", "\xff") }},
		{"value and raw_value differ", http(&authv3.AttributeContext_HttpRequest{HeaderMap: &corev3.HeaderMap{
			Headers: []*corev3.HeaderValue{{Key: "x", Value: "a", RawValue: []byte("b")}, {Key: "y", Value: "a", RawValue: []byte("a")}, {Key: "z", Value: "v"}}}}),
			func(a *policy.Attributes) bool {
				return header(a, "x", "b", "a") && header(a, "y", "a") && header(a, "z", "v")
			}},
		{"both forms agree", http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"a": "1,2", "b": ""}, HeaderMap: raw("a", "1", "a", "2", "b", "")}),
			func(a *policy.Attributes) bool { return len(a.Headers) == 3 && header(a, "a", "1", "2") }},
		{"both forms disagree", http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"authorization": "alice"}, HeaderMap: raw("authorization", "bob")}),
			func(a *policy.Attributes) bool { return header(a, "authorization", "bob", "alice") }},
		{"two spellings in the map are not one in the list", http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"X-A": "1", "x-a": "1"}, HeaderMap: raw("x-a", "1")}),
			func(a *policy.Attributes) bool { return header(a, "x-a", "1", "1", "1") }},
		{"one form has more", http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"authorization": "alice"}, HeaderMap: raw("x", "")}),
			func(a *policy.Attributes) bool { return header(a, "authorization", "alice") && header(a, "x", "") }},
		{"one form has fewer of a name", http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"a": "1"}, HeaderMap: raw("a", "1", "a", "2")}),
			func(a *policy.Attributes) bool { return header(a, "a", "1", "2", "1") }},
		{"a proxyless gRPC server", http(&authv3.AttributeContext_HttpRequest{Path: "/acme.Orders/Get", Size: -1, Protocol: "HTTP/2", HeaderMap: raw("authorization", "x")}),
			func(a *policy.Attributes) bool {
				return a.Method == "POST" && a.Host == "" && a.Size == -1 && a.Proxyless
			}},
		{"an empty method is not POST elsewhere", http(&authv3.AttributeContext_HttpRequest{Path: "/a/b", Host: "h", HeaderMap: raw("x", "y")}),
			func(a *policy.Attributes) bool { return a.Method == "" && !a.Proxyless }},
		{"an empty method is not POST with a map", http(&authv3.AttributeContext_HttpRequest{Path: "/a/b", Headers: map[string]string{"x": "y"}}),
			func(a *policy.Attributes) bool { return a.Method == "" }},
		{"query apart from the path", http(&authv3.AttributeContext_HttpRequest{Path: "/a", Query: "x=1"}),
			func(a *policy.Attributes) bool { return a.Path == "/a?x=1" }},
		{"query twice the same", http(&authv3.AttributeContext_HttpRequest{Path: "/a?x=1", Query: "x=1"}),
			func(a *policy.Attributes) bool { return a.Path == "/a?x=1" }},
		{"query twice, different: nothing is lost", http(&authv3.AttributeContext_HttpRequest{Path: "/a?x=1", Query: "api_key=2"}),
			func(a *policy.Attributes) bool { return a.Path == "/a?x=1?api_key=2" }},
		{"a fragment", http(&authv3.AttributeContext_HttpRequest{Path: "/a", Fragment: "f"}),
			func(a *policy.Attributes) bool { return a.Path == "/a#f" }},
		{"a raw body", http(&authv3.AttributeContext_HttpRequest{RawBody: []byte("\xff\x00")}),
			func(a *policy.Attributes) bool { return string(a.Body) == "\xff\x00" && !a.BodyTruncated }},
		{"two bodies", http(&authv3.AttributeContext_HttpRequest{RawBody: []byte("a"), Body: "b"}),
			func(a *policy.Attributes) bool { return string(a.Body) == "a" && a.BodyTruncated }},
		{"a partial body", http(&authv3.AttributeContext_HttpRequest{Body: "b", Headers: map[string]string{"x-envoy-auth-partial-body": "true"}}),
			func(a *policy.Attributes) bool { return a.BodyTruncated }},
		{"a body that is said to be whole twice", http(&authv3.AttributeContext_HttpRequest{Body: "b", HeaderMap: raw("x-envoy-auth-partial-body", "false", "x-envoy-auth-partial-body", "true")}),
			func(a *policy.Attributes) bool { return a.BodyTruncated }},
		{"a whole body", http(&authv3.AttributeContext_HttpRequest{Body: "b", Headers: map[string]string{"x-envoy-auth-partial-body": "false"}}),
			func(a *policy.Attributes) bool { return !a.BodyTruncated }},
		{"pipe", peer(&corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/tmp/x"}}}),
			func(a *policy.Attributes) bool { return a.Source.Address == netip.AddrPort{} }},
		{"internal", peer(&corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{}}}),
			func(a *policy.Attributes) bool { return a.Source.Address == netip.AddrPort{} }},
		{"no IP address", peer(socket("not-an-ip", 1)), func(a *policy.Attributes) bool { return !a.Source.Address.IsValid() }},
		{"an address with zone", peer(socket("fe80::1%eth0", 1)), func(a *policy.Attributes) bool { return a.Source.Address.Addr().Zone() == "eth0" }},
		{"a port that is none", peer(socket("192.0.2.1", 65536)),
			func(a *policy.Attributes) bool { return a.Source.Address == netip.MustParseAddrPort("192.0.2.1:0") }},
		{"a time after year 9999", &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Time: &timestamppb.Timestamp{Seconds: math.MaxInt64}}}},
			func(a *policy.Attributes) bool { return a.Time.IsZero() }},
	} {
		t.Run(f.name, func(t *testing.T) {
			wire := marshal(t, f.in)
			a, err := read(wire)
			if err != nil || !f.ok(&a) {
				t.Errorf("%v: %+v", err, a)
			}
			same(t, wire)
		})
	}
}

// Messages that are no CheckRequest, or too much of one: nothing of them is
// taken over.
func TestRequestRefused(t *testing.T) {
	deep := &structpb.Value{}
	for range maxDepth + 1 {
		deep = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{deep}})
	}
	metadata := func(v *structpb.Value) *authv3.CheckRequest {
		return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{MetadataContext: &corev3.Metadata{
			FilterMetadata: map[string]*structpb.Struct{"f": {Fields: map[string]*structpb.Value{"v": v}}}}}}
	}
	many := make([]*structpb.Value, maxItems+1)
	for i := range many {
		many[i] = &structpb.Value{}
	}
	path := func(text string) []byte { return nested(text, 1, 4, 2, 4) }
	group := strings.Repeat("\x0b", maxGroups+2) + strings.Repeat("\x0c", maxGroups+2)
	for name, c := range map[string]struct {
		wire []byte
		want error
	}{
		"cut off":               {marshal(t, full())[:40], errWire},
		"garbage":               {[]byte("\xff\xff\xff\xff"), errWire},
		"field number 0":        {[]byte{0x02, 0x00}, errWire},
		"field number too high": {protowire.AppendVarint(nil, (1<<29)<<3), errWire},
		"wire type 7":           {[]byte{0x0f}, errWire},
		"varint of 11 bytes":    {[]byte("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), errWire},
		"varint over 64 bits":   {[]byte("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), errWire},
		"end without a group":   {[]byte{0x0c}, errWire},
		"group without an end":  {[]byte{0x0b}, errWire},
		"wrong end of a group":  {[]byte{0x0b, 0x14}, errWire},
		"deep groups":           {[]byte(group), errDeep},
		"path not UTF-8":        {path("/\xff"), errUTF8},
		"deep JSON":             {marshal(t, metadata(deep)), errDeep},
		"much JSON":             {marshal(t, metadata(structpb.NewListValue(&structpb.ListValue{Values: many}))), errMany},
		"many header fields":    {nested(strings.Repeat("\x1a\x00", maxItems+1), 1, 4, 2), errMany},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := read(append(marshal(t, full()), c.wire...))
			if err != c.want || gocmp.Diff(policy.Attributes{Size: -1}, a, compare) != "" {
				t.Errorf("got %v and %+v, want %v and nothing", err, a, c.want)
			}
		})
	}
}

// nested puts the text into fields within fields, the outermost first.
func nested(text string, numbers ...protowire.Number) []byte {
	wire := []byte(text)
	for _, n := range slices.Backward(numbers) {
		wire = protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), wire)
	}
	return wire
}

// A map entry that occurs twice is kept twice, unlike in protobuf: two readings
// of one field are for canonical to refuse.
func TestRequestDuplicateEntries(t *testing.T) {
	one := marshal(t, http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"x-api-key": "a"}}))
	two := marshal(t, http(&authv3.AttributeContext_HttpRequest{Headers: map[string]string{"x-api-key": "b"}}))
	a, err := read(append(one, two...))
	if _, n := a.Headers.Get("x-api-key"); err != nil || n != 2 {
		t.Errorf("%v: %v", err, a.Headers)
	}
}

// same fails unless the wire means to the door what it means to protobuf.
func same(t testing.TB, wire []byte) {
	t.Helper()
	var m authv3.CheckRequest
	err := proto.Unmarshal(wire, &m)
	got, refused := read(wire)
	switch {
	case refused != nil:
		if err == nil && (refused == errWire || refused == errUTF8) {
			t.Fatalf("%v, but protobuf reads it: %x", refused, wire)
		}
		return
	case err != nil:
		return // the fault is in a part that the door does not read
	}
	want := oracleAttributes(&m)
	if !slices.Equal(sorted(got.Headers), sorted(want.Headers)) {
		if !contains(got.Headers, want.Headers) && len(m.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders()) == 0 {
			t.Fatalf("%v lack some of %v", got.Headers, want.Headers)
		}
		if canonical := marshal(t, &m); string(canonical) != string(wire) {
			same(t, canonical) // without the duplicate entries
			return
		}
	}
	got.Headers, want.Headers = sorted(got.Headers), sorted(want.Headers)
	if diff := gocmp.Diff(want, got, compare); diff != "" {
		t.Fatalf("wire %x\n%s", wire, diff)
	}
}

// Random messages, merged out of several and with unknown fields between.
func TestRequestSameAsProtobuf(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var wire []byte
		for range rapid.IntRange(1, 3).Draw(rt, "parts") {
			wire = append(wire, marshal(t, someRequest(rt))...)
			switch rapid.IntRange(0, 5).Draw(rt, "unknown") {
			case 0:
				wire = protowire.AppendVarint(protowire.AppendTag(wire, 77, protowire.VarintType), 1<<40)
			case 1:
				wire = protowire.AppendTag(wire, 78, protowire.StartGroupType)
				wire = protowire.AppendFixed32(protowire.AppendTag(wire, 1, protowire.Fixed32Type), 9)
				wire = protowire.AppendTag(wire, 78, protowire.EndGroupType)
			case 2: // a known field with another wire type
				wire = protowire.AppendFixed64(protowire.AppendTag(wire, 1, protowire.Fixed64Type), 9)
			}
		}
		same(t, wire)
	})
}

func someRequest(t *rapid.T) *authv3.CheckRequest {
	text := rapid.SampledFrom([]string{"", "a", "A", "/a/b", "x-request-id", "\u212A", "?x", "a,b", strings.Repeat("x", 200)})
	texts := rapid.MapOfN(text, text, 0, 3)
	some := func(name string) bool { return rapid.Bool().Draw(t, name) }
	peer := func(name string) *authv3.AttributeContext_Peer {
		if !some(name) {
			return nil
		}
		p := &authv3.AttributeContext_Peer{Service: text.Draw(t, "service"), Principal: text.Draw(t, "principal"), Labels: texts.Draw(t, "labels")}
		switch rapid.IntRange(0, 4).Draw(t, "address") {
		case 0:
			p.Address = socket("192.0.2.1", rapid.Uint32Max(70000).Draw(t, "port"))
		case 1:
			p.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "x"}}}
		case 2:
			p.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				PortSpecifier: &corev3.SocketAddress_NamedPort{NamedPort: "http"}}}}
		}
		return p
	}
	c := &authv3.AttributeContext{Source: peer("source"), Destination: peer("destination"), ContextExtensions: texts.Draw(t, "extensions")}
	if some("metadata") {
		s := &structpb.Struct{Fields: map[string]*structpb.Value{text.Draw(t, "member"): someValue(t, 3)}}
		c.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{text.Draw(t, "filter"): s}}
	}
	if some("request") {
		c.Request = &authv3.AttributeContext_Request{}
		if some("time") {
			c.Request.Time = &timestamppb.Timestamp{Seconds: rapid.Int64().Draw(t, "seconds"), Nanos: rapid.Int32().Draw(t, "nanos")}
		}
		if some("http") {
			h := &authv3.AttributeContext_HttpRequest{
				Id: text.Draw(t, "id"), Method: text.Draw(t, "method"), Path: text.Draw(t, "path"), Host: text.Draw(t, "host"),
				Scheme: text.Draw(t, "scheme"), Query: text.Draw(t, "query"), Fragment: text.Draw(t, "fragment"),
				Size: rapid.Int64().Draw(t, "size"), Body: text.Draw(t, "body"), RawBody: []byte(text.Draw(t, "raw body")),
				Headers: texts.Draw(t, "headers"),
			}
			if some("header_map") {
				h.HeaderMap = &corev3.HeaderMap{}
				for range rapid.IntRange(0, 4).Draw(t, "fields") {
					h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{
						Key: text.Draw(t, "key"), Value: text.Draw(t, "value"), RawValue: []byte(text.Draw(t, "raw")),
					})
				}
			}
			c.Request.Http = h
		}
	}
	return &authv3.CheckRequest{Attributes: c}
}

func someValue(t *rapid.T, depth int) *structpb.Value {
	switch kind := rapid.IntRange(0, 6).Draw(t, "kind"); {
	case kind == 0:
		return structpb.NewNullValue()
	case kind == 1:
		return structpb.NewNumberValue(rapid.SampledFrom([]float64{0, -1.5, math.NaN(), math.Inf(1), math.Inf(-1)}).Draw(t, "number"))
	case kind == 2:
		return structpb.NewStringValue("s")
	case kind == 3:
		return structpb.NewBoolValue(true)
	case kind == 4 && depth > 0:
		return structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{someValue(t, depth-1), someValue(t, depth-1)}})
	case kind == 5 && depth > 0:
		return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"a": someValue(t, depth-1), "b": someValue(t, depth-1)}})
	}
	return &structpb.Value{}
}

// Any bytes are refused or mean what protobuf reads in them; nothing panics.
func FuzzCheckRequest(f *testing.F) {
	f.Add(marshal(f, full()))
	f.Add(append(marshal(f, full()), marshal(f, full())...))
	f.Add(marshal(f, http(&authv3.AttributeContext_HttpRequest{Path: "/a/b", HeaderMap: raw("a", "b", "a", "c"), Headers: map[string]string{"a": "b,c"}})))
	f.Add([]byte("\x0b\x0c\x0f"))
	f.Fuzz(func(t *testing.T, wire []byte) { same(t, wire) })
}
