package main

import (
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// The scenarios of the admin API about what stands in the fields of requests. They go
// over the descriptors, so that a field that is added is tried as well.

// listing are the methods that return pages.
func listing() (names []string) {
	protoregistry.GlobalFiles.RangeFilesByPackage("postern.admin.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				if m := s.Methods().Get(j); m.Input().Fields().ByName("page_token") != nil {
					names = append(names, string(s.Name())+"/"+string(m.Name()))
				}
			}
		}
		return true
	})
	slices.Sort(names)
	return names
}

// page asks for a page with one record, after changes to the request.
func (c *control) page(t testing.TB, as, method, token string, changes ...func(protoreflect.Message)) (proto.Message, error) {
	t.Helper()
	req := newMessage(t, methodNamed(t, method).Input())
	set(req, "page_size", protoreflect.ValueOfInt32(1))
	set(req, "page_token", protoreflect.ValueOfString(token))
	for _, change := range changes {
		change(req.ProtoReflect())
	}
	return c.invoke(t, as, method, req)
}

func set(m proto.Message, field protoreflect.Name, v protoreflect.Value) {
	r := m.ProtoReflect()
	r.Set(r.Descriptor().Fields().ByName(field), v)
}

// ADMIN-02: a page's token is good for the query that it came from, and as it came.
func TestPageTokens(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	for range 2 { // enough of everything for two pages
		for _, method := range []string{
			"CredentialService/IssueCredential", "SessionService/CreateSession", "DenylistService/AddDenial", "BudgetService/SetLimit",
			"ApprovalService/RequestApproval", "ConsentService/GrantConsent",
		} {
			_, _ = c.invoke(t, c.root, method, mutations[method].request(t, c))
		}
		c.principal(t, &adminv1.Principal{Tenant: "acme", Id: c.fresh(), Kind: aService})
	}
	_, other := c.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "boss"})
	c.expect(t, withKey("/counted", other), 200, "allowed") // a second account
	tokens := map[string]string{}
	for _, method := range listing() {
		res, err := c.page(t, c.root, method, "")
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		if tokens[method] = res.(interface{ GetNextPageToken() string }).GetNextPageToken(); tokens[method] == "" {
			t.Errorf("%s: there is no second page", method)
		}
	}
	before := c.mark(t)
	for method, token := range tokens {
		if _, err := c.page(t, c.root, method, token); err != nil {
			t.Errorf("%s: the second page: %v", method, err)
		}
		bad := map[string]string{
			"cut": token[:len(token)-1], "longer": token + "AAAA", "padded": token + "=", "with a space": token + " ", "1 MiB": strings.Repeat("A", 1<<20),
			"SQL": "' OR 1=1 --", "SQL inside": base64.RawURLEncoding.EncodeToString([]byte("0123456789abcdef' OR 1=1 --")), "NUL": token + "\x00", "a number": "1",
			"minus one": "-1", "zeros": strings.Repeat("A", len(token)),
		}
		for i := range token {
			bad[fmt.Sprintf("byte %d", i)] = token[:i] + string(otherLetter(token[i])) + token[i+1:]
		}
		for other, foreign := range tokens {
			if other != method {
				bad["of "+other] = foreign
			}
		}
		for name, token := range bad {
			if _, err := c.page(t, c.root, method, token); status.Code(err) != codes.InvalidArgument || strings.Contains(strings.ToLower(fmt.Sprint(err)), "sql") {
				t.Errorf("%s, a token that is %s: %.200v", method, name, err)
			}
		}
		// Another filter is another list, and so is another tenant's.
		if f := methodNamed(t, method).Input().Fields().ByName("tenant"); f != nil {
			_, err := c.page(t, c.root, method, token, func(m protoreflect.Message) { m.Set(f, protoreflect.ValueOfString("acme")) })
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s, the token of another filter: %v", method, err)
			}
		}
		if _, err := c.page(t, c.rival, method, token); method != "DecisionService/ListDecisions" && method != "DecisionService/ListShadowDifferences" && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s, the token of somebody who sees more: %v", method, err)
		}
	}
	c.unchanged(t, before)
}

// otherLetter is another letter of base64url, which differs in more than the bits that
// the last letter of a text may have to spare.
func otherLetter(b byte) byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return letters[(strings.IndexByte(letters, b)+32)%64]
}

// oddDurations and oddTimes are at the edges of what their types can say, and beyond.
var oddDurations = map[string]*durationpb.Duration{
	"-1 s": {Seconds: -1}, "-1 ns": {Nanos: -1}, "0": {}, "1 ns": {Nanos: 1}, "2^63-1 s": {Seconds: math.MaxInt64}, "-2^63 s": {Seconds: math.MinInt64},
	"2^63-1 s and all ns": {Seconds: math.MaxInt64, Nanos: math.MaxInt32}, "two signs": {Seconds: 1, Nanos: -1}, "too many ns": {Seconds: 1, Nanos: 2_000_000_000},
	"2^63-1 ns": {Seconds: 9_223_372_036, Nanos: 854_775_807}, "2^63 ns": {Seconds: 9_223_372_036, Nanos: 854_775_808}, "2^64 ns and 1 h": {Seconds: 18_446_747_673, Nanos: 709_551_616 - 1},
	"10,000 years": {Seconds: 315_576_000_000}, "more than 10,000 years": {Seconds: 315_576_000_001},
}

var oddTimes = map[string]*timestamppb.Timestamp{
	"1970": {}, "before 1970": {Seconds: -1}, "-2^63": {Seconds: math.MinInt64}, "2^63-1": {Seconds: math.MaxInt64}, "negative ns": {Seconds: 1, Nanos: -1},
	"the year 1": {Seconds: -62_135_596_800}, "the end of 9999": {Seconds: 253_402_300_799}, "the year 10000": {Seconds: 253_402_300_800},
	"the year 292277": {Seconds: 9_223_372_036_854}, "2^63 ns": {Seconds: 9_223_372_037}, "-2^63 ns": {Seconds: -9_223_372_037},
}

// ADMIN-03: whatever is asked for a life, a credential has an end, and not a late one;
// what cannot be is said so.
func TestOddDurations(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	tried := 0
	for _, method := range changing() {
		for _, path := range spans(methodNamed(t, method).Input(), 2) {
			for name := range oddDurations {
				c.odd(t, method, path, name, oddDurations[name], &tried)
			}
			for name := range oddTimes {
				c.odd(t, method, path, name, oddTimes[name], &tried)
			}
		}
	}
	t.Logf("%d requests", tried)
	for _, minutes := range []int32{-1, math.MinInt32, math.MaxInt32, 61, 32768, 1 << 24} {
		_, err := c.invoke(t, c.root, "TokenService/IssueAgentToken", &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: "researcher", Role: "reader", TtlMinutes: minutes})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("a token for %d minutes: %v", minutes, err)
		}
	}
}

// spans are the paths of the fields that hold a duration or a time, and that a caller sets.
func spans(m protoreflect.MessageDescriptor, deep int) (paths [][]protoreflect.FieldDescriptor) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Message() == nil || f.IsList() || f.IsMap() {
			continue
		}
		switch f.Message().FullName() {
		case "google.protobuf.Duration", "google.protobuf.Timestamp":
			paths = append(paths, []protoreflect.FieldDescriptor{f})
		default:
			if deep > 0 {
				for _, rest := range spans(f.Message(), deep-1) {
					paths = append(paths, append([]protoreflect.FieldDescriptor{f}, rest...))
				}
			}
		}
	}
	return paths
}

// odd sets one field to an odd value and looks at what comes of it.
func (c *control) odd(t testing.TB, method string, path []protoreflect.FieldDescriptor, name string, value proto.Message, tried *int) {
	t.Helper()
	last := path[len(path)-1]
	if last.Message().FullName() != value.ProtoReflect().Descriptor().FullName() {
		return
	}
	req := mutations[method].request(t, c)
	m := req.ProtoReflect()
	for _, f := range path[:len(path)-1] {
		m = m.Mutable(f).Message()
	}
	m.Set(last, protoreflect.ValueOfMessage(value.ProtoReflect()))
	if f := req.ProtoReflect().Descriptor().Fields().ByName("update_mask"); f != nil {
		req.ProtoReflect().Set(f, protoreflect.ValueOfMessage(mask(string(last.Name())).ProtoReflect()))
	}
	*tried++
	res, err := c.invoke(t, mutations[method].by(c), method, req)
	what := fmt.Sprintf("%s, %s is %s", method, last.FullName(), name)
	switch code := status.Code(err); code {
	case codes.OK:
		c.ends(t, what, res)
	case codes.InvalidArgument, codes.FailedPrecondition:
	default:
		t.Errorf("%s: %v", what, err)
	}
}

// ends looks for credentials in an answer, each of which has to end.
func (c *control) ends(t testing.TB, what string, res proto.Message) {
	t.Helper()
	res.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() == nil || f.IsList() || f.IsMap() {
			return true
		}
		m := v.Message().Interface()
		c.ends(t, what, m)
		var end *timestamppb.Timestamp
		longest := time.Hour
		switch r := m.(type) {
		case *adminv1.Credential:
			end, longest = r.GetExpireTime(), 90*24*time.Hour
		case *adminv1.Session:
			end, longest = r.GetExpireTime(), 8*time.Hour
		case *adminv1.AgentToken:
			end = r.GetExpireTime()
		case *adminv1.Approval:
			end, longest = r.GetExpireTime(), 7*24*time.Hour
		case *adminv1.Tenant:
			for _, d := range []*durationpb.Duration{r.GetMaxTtl(), r.GetUnusedFor(), r.GetSessionIdle(), r.GetSessionMax()} {
				if d != nil && (d.CheckValid() != nil || d.AsDuration() <= 0) {
					t.Errorf("%s: the tenant has %v", what, r)
				}
			}
			return true
		default:
			return true
		}
		if end == nil || end.CheckValid() != nil || end.AsTime().After(time.Now().Add(longest+time.Minute)) {
			t.Errorf("%s: it ends %v: %v", what, end, m)
		}
		return true
	})
}

// oddTexts are no names.
var oddTexts = map[string]string{
	"control characters": "a\x01b", "an escape": "a\x1b[31mb", "a new line": "a\nb", "a carriage return": "a\rb", "NUL": "a\x00b", "DEL": "a\x7fb", "C1": "a\u0085b",
	"1 MiB": strings.Repeat("a", 1<<20), "a path upwards": "../../etc/passwd", "a path upwards with backslashes": `..\..\x`, "a script": "<script>alert(1)</script>",
	"a right-to-left override": "a\u202eb", "a zero-width space": "a\u200bb", "a line separator": "a\u2028b", "a byte order mark": "\ufeffa",
}

// ADMIN-04: names, notes and reasons are plain text of one line; ids are less than that.
func TestOddNames(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	before := c.mark(t)
	for what, text := range oddTexts {
		for _, req := range []struct {
			method string
			make   func() proto.Message
		}{
			{"CredentialService/IssueCredential", func() proto.Message {
				return &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app", DisplayName: text}}
			}},
			{"CredentialService/IssueCredential", func() proto.Message {
				return &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app", Environment: text}}
			}},
			{"CredentialService/IssueCredential", func() proto.Message {
				return &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: text}}
			}},
			{"PrincipalService/CreatePrincipal", func() proto.Message {
				return &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Tenant: "acme", Id: c.fresh(), Kind: aService, DisplayName: text}}
			}},
			{"PrincipalService/CreatePrincipal", func() proto.Message {
				return &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Tenant: "acme", Id: text, Kind: aService}}
			}},
			{"AgentService/CreateAgent", func() proto.Message {
				return &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Tenant: "acme", Id: c.fresh(), DisplayName: text}}
			}},
			{"AgentService/CreateAgent", func() proto.Message {
				return &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Tenant: "acme", Id: text}}
			}},
			{"TenantService/CreateTenant", func() proto.Message {
				return &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: text}}
			}},
			{"TenantService/CreateTenant", func() proto.Message {
				return &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: c.fresh(), DisplayName: text}}
			}},
			{"TenantService/CreateTenant", func() proto.Message {
				return &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: c.fresh(), Labels: map[string]string{"team": text}}}
			}},
			{"TenantService/CreateTenant", func() proto.Message {
				return &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: c.fresh(), Labels: map[string]string{text: "x"}}}
			}},
			{"SessionService/CreateSession", func() proto.Message {
				return &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann", Metadata: map[string]string{"note": text}}}
			}},
		} {
			_, err := c.invoke(t, c.root, req.method, req.make())
			if code := status.Code(err); code != codes.InvalidArgument && code != codes.NotFound {
				t.Errorf("%s with %s: %v", req.method, what, err)
			}
		}
	}
	many := map[string]string{}
	facts := map[string]any{}
	for i := range 10_000 {
		many[fmt.Sprint("label-", i)], facts[fmt.Sprint("fact-", i)] = "x", "x"
	}
	metadata, err := structpb.NewStruct(facts)
	if err != nil {
		t.Fatal(err)
	}
	for method, req := range map[string]proto.Message{
		"TenantService/CreateTenant":        &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: c.fresh(), Labels: many}},
		"SessionService/CreateSession":      &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann", Metadata: many}},
		"CredentialService/IssueCredential": &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app", Metadata: metadata}},
	} {
		if _, err := c.invoke(t, c.root, method, req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s with 10,000 labels: %v", method, err)
		}
	}
	c.unchanged(t, before)
	c.badUTF8(t)
}

// badUTF8 sends names that no client library would: as the bytes of the message.
func (c *control) badUTF8(t testing.TB) {
	t.Helper()
	before := c.mark(t)
	good, err := proto.Marshal(&adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: c.fresh(), DisplayName: "NAME"}})
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, c.replica.admin, withBytes(), withToken(c.root))
	for _, name := range []string{"\xff\xfe!!", "\xc0\xaf!!", "\xed\xa0\x80!", "\xf4\x90\x80\x80", "abc\xe2"} {
		var reply []byte
		err := conn.Invoke(t.Context(), "/postern.admin.v1.TenantService/CreateTenant", []byte(strings.Replace(string(good), "NAME", name[:4], 1)), &reply)
		if code := status.Code(err); code != codes.InvalidArgument && code != codes.Internal {
			t.Errorf("a name of %q: %v", name, err)
		}
	}
	c.unchanged(t, before)
}

func withBytes() grpc.DialOption { return grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})) }

func withToken(token string) grpc.DialOption { return grpc.WithPerRPCCredentials(callToken(token)) }
