package main

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// origins is world "origins" in a process of its own.
type origins struct {
	*replica
	tokens  adminv1.TokenServiceClient
	gateway posternv1.CheckServiceClient // who is believed
	trusted posternv1.UsageServiceClient
	anybody posternv1.UsageServiceClient // who is not
	pki     pki
}

func launchOrigins(t testing.TB) *origins {
	t.Helper()
	w := prepare(t, "origins", "@STORE@", sqliteStore)
	w.write(t, "one.key", hex.EncodeToString([]byte("thirty-two bytes for a signature")))
	w.write(t, "gateway-token", gatewayToken)
	o := &origins{pki: newPKI(t, w.path("ca"))}
	w.bootstrap(t)
	o.replica = launch(t, w)
	o.hide(gatewayToken)
	named := dial(t, o.rpc, grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return next(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+gatewayToken), method, req, reply, cc, opts...)
	}))
	o.gateway, o.trusted = posternv1.NewCheckServiceClient(named), posternv1.NewUsageServiceClient(named)
	o.anybody = posternv1.NewUsageServiceClient(dial(t, o.rpc))
	root := strings.TrimSpace(w.read(t, "admin.key"))
	o.tokens = o.calling(t, root)
	agents := adminv1.NewAgentServiceClient(dial(t, o.replica.admin, withToken(root)))
	for _, id := range []string{"researcher", "coder"} {
		does(t, agents.CreateAgent, &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Id: id, TokenRoles: []string{"reader"}}})
	}
	o.principal(t, &adminv1.Principal{Id: "ann", Kind: aUser, Scopes: []string{"data:read"}})
	return o
}

func (o *origins) calling(t testing.TB, credential string) adminv1.TokenServiceClient {
	t.Helper()
	return adminv1.NewTokenServiceClient(dial(t, o.replica.admin, withToken(credential)))
}

// issued is a token of an agent, as somebody issues it.
func (o *origins) issued(t testing.TB, by adminv1.TokenServiceClient, agent string, budget int64) string {
	t.Helper()
	res := does(t, by.IssueAgentToken, &adminv1.IssueAgentTokenRequest{AgentId: agent, Role: "reader", TokenBudget: budget})
	o.hide(res.GetSecret())
	return res.GetSecret()
}

// exchanged is what comes of two tokens.
func (o *origins) exchanged(t testing.TB, subject, actor string, budget int64) string {
	t.Helper()
	res := does(t, o.tokens.ExchangeToken, &adminv1.ExchangeTokenRequest{SubjectToken: subject, ActorToken: actor, TokenBudget: budget})
	o.hide(res.GetAccessToken())
	return res.GetAccessToken()
}

// spends asks for something of so many model tokens, and returns the status.
func (o *origins) spends(t testing.TB, path, token string, n int64) (d *posternv1.Decision) {
	t.Helper()
	eventually(t, "an answer", func() bool {
		res, err := o.gateway.Check(t.Context(), &posternv1.CheckRequest{Target: get(path, bearer(token)...).forPostern(), Cost: map[string]int64{"tokens": n}})
		if err != nil {
			t.Fatal(err)
		}
		o.said(res)
		d = res.GetDecision()
		return d.GetHttpStatus() != 503
	})
	return d
}

// BUDGET-06: however often a token is exchanged, what comes of it has its budget together:
// the one that it says of itself, and one of the configuration.
func TestExchangesShareABudget(t *testing.T) {
	t.Parallel()
	o := launchOrigins(t)
	subject, actor := o.issued(t, o.tokens, "researcher", 100), o.issued(t, o.tokens, "coder", 100)
	one, other := o.exchanged(t, subject, actor, 0), o.exchanged(t, subject, actor, 0)
	part := o.exchanged(t, subject, actor, 50)
	ofPart := o.exchanged(t, part, o.issued(t, o.tokens, "coder", 0), 0)
	for _, c := range []struct {
		what, token string
		n           int64
		status      uint32
	}{
		{"the subject's", subject, 40, 200}, {"one of it", one, 30, 200}, {"another of it", other, 31, 429}, {"another of it", other, 20, 200},
		{"the subject's, what is left", subject, 11, 429}, {"a part, more than is left of the whole", part, 11, 429},
		{"a part", part, 5, 200}, {"of a part", ofPart, 6, 429}, {"of a part, the rest", ofPart, 5, 200}, {"one of it, nothing is left", one, 1, 429},
		{"the actor's, of which its exchanges have spent", actor, 41, 429}, {"the actor's, the rest", actor, 35, 200},
	} {
		if d := o.spends(t, "/other", c.token, c.n); d.GetHttpStatus() != c.status {
			t.Errorf("%s: %d for %d, want %d: %v", c.what, d.GetHttpStatus(), c.n, c.status, d.GetBudgets())
		}
	}
	// No token is had by a token: that would be another budget.
	if res, err := sighted(t, o.calling(t, subject).IssueAgentToken, &adminv1.IssueAgentTokenRequest{AgentId: "researcher", Role: "reader"}); err == nil {
		o.hide(res.GetSecret())
		t.Error("a token has brought about another one with a budget of its own")
	}
	// A budget of each token counts those together as well.
	fresh := o.issued(t, o.tokens, "researcher", 0)
	all := []string{fresh, o.exchanged(t, fresh, actor, 0), o.exchanged(t, fresh, actor, 0), o.exchanged(t, fresh, actor, 0)}
	for i, token := range all {
		want := uint32(200)
		if i == 3 {
			want = 429
		}
		if d := o.spends(t, "/chat", token, 0); d.GetHttpStatus() != want {
			t.Errorf("token %d: %d, want %d", i, d.GetHttpStatus(), want)
		}
	}
}

// P-13: a token ends with the credentials that it came from: the key of whoever issued it,
// the session of a user, another token.
func TestTokensFallWithTheirParents(t *testing.T) {
	t.Parallel()
	o := launchOrigins(t)
	o.principal(t, &adminv1.Principal{Id: "clerk", Kind: aService, Roles: []string{"platform-admin"}})
	id, key := o.key(t, "clerk")
	byKey := o.issued(t, o.calling(t, key), "researcher", 0)
	byRoot := o.issued(t, o.tokens, "coder", 0)
	chained := o.exchanged(t, byKey, byRoot, 0)
	session := does(t, o.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{PrincipalId: "ann", Amr: []string{"pwd"}}}).GetCreated()
	var ofSession string
	eventually(t, "the session is exchanged", func() bool {
		res, err := o.tokens.ExchangeToken(t.Context(), &adminv1.ExchangeTokenRequest{
			SubjectToken: session.GetSecret(), SubjectTokenType: "urn:postern:params:oauth:token-type:session", ActorToken: byRoot,
		})
		ofSession = res.GetAccessToken()
		return err == nil
	})
	o.hide(ofSession)
	for _, token := range []string{byKey, byRoot, chained, ofSession} {
		o.becomes(t, get("/", bearer(token)...), 200, "allowed")
	}
	// What is turned off for a while is so with all that came from it.
	does(t, o.credentials.DisableCredential, &adminv1.DisableCredentialRequest{Id: id})
	o.becomes(t, get("/", bearer(byKey)...), 401, "disabled")
	does(t, o.credentials.EnableCredential, &adminv1.EnableCredentialRequest{Id: id})
	o.becomes(t, get("/", bearer(byKey)...), 200, "allowed")
	// One that is rotated as planned takes nothing with it, and one that is revoked does.
	rotated := does(t, o.credentials.RotateCredential, &adminv1.RotateCredentialRequest{Id: id}).GetCredential().GetId()
	o.becomes(t, withKey("/", key), 401, "rotated")
	o.becomes(t, get("/", bearer(byKey)...), 200, "allowed")
	does(t, o.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	o.becomes(t, get("/", bearer(byKey)...), 401, "revoked")
	o.becomes(t, get("/", bearer(chained)...), 401, "revoked")
	does(t, o.sessions.DeleteSession, &adminv1.DeleteSessionRequest{Id: session.GetSession().GetId()})
	o.becomes(t, get("/", bearer(ofSession)...), 401, "revoked")
	o.becomes(t, get("/", bearer(byRoot)...), 200, "allowed")
	if rotated == id {
		t.Error("nothing was rotated")
	}

	// The jti of a token that was exchanged is on the denylist.
	parent := does(t, o.tokens.IssueAgentToken, &adminv1.IssueAgentTokenRequest{AgentId: "researcher", Role: "reader"})
	o.hide(parent.GetSecret())
	child := o.exchanged(t, parent.GetSecret(), byRoot, 0)
	o.becomes(t, get("/", bearer(child)...), 200, "allowed")
	does(t, o.tokens.RevokeAgentToken, &adminv1.RevokeAgentTokenRequest{Jti: parent.GetToken().GetJti()})
	o.becomes(t, get("/", bearer(parent.GetSecret())...), 401, "revoked")
	o.becomes(t, get("/", bearer(child)...), 401, "revoked")
}

// RFC 8705 section 3: a token that is bound to a certificate is good with it, and without
// it neither at a door nor in an exchange.
func TestBoundAgentToken(t *testing.T) {
	t.Parallel()
	o := launchOrigins(t)
	mine, other := o.pki.workload(t, "researcher"), o.pki.workload(t, "other")
	res := does(t, o.tokens.IssueAgentToken, &adminv1.IssueAgentTokenRequest{
		AgentId: "researcher", Role: "reader", Cnf: &adminv1.Confirmation{CertificateSha256: mine.Fingerprint},
	})
	o.hide(res.GetSecret())
	bound, plain := res.GetSecret(), o.issued(t, o.tokens, "coder", 0)
	for name, c := range map[string]struct {
		certificate []string
		status      uint32
	}{
		"its own": {mine.xfcc(), 200}, "another": {other.xfcc(), 401}, "none": {nil, 401},
	} {
		var d *posternv1.Decision
		eventually(t, "an answer", func() bool {
			res, err := o.gateway.Check(t.Context(), &posternv1.CheckRequest{Target: get("/", append(bearer(bound), c.certificate...)...).forPostern()})
			if err != nil {
				t.Fatal(err)
			}
			d = res.GetDecision()
			return d.GetHttpStatus() != 503
		})
		if d.GetHttpStatus() != c.status {
			t.Errorf("with %s certificate: %v", name, d)
		}
	}
	for what, req := range map[string]*adminv1.ExchangeTokenRequest{
		"the subject's": {SubjectToken: bound, ActorToken: plain}, "the actor's": {SubjectToken: plain, ActorToken: bound},
	} {
		if _, err := sighted(t, o.tokens.ExchangeToken, req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s token is bound, and is exchanged without its certificate: %v", what, err)
		}
	}
}

// RFC 9470: who has logged in strongly has done so for the agent that acts, too.
func TestStepUpSurvivesAnExchange(t *testing.T) {
	t.Parallel()
	o := launchOrigins(t)
	actor := o.issued(t, o.tokens, "researcher", 0)
	strong := get("/strong")
	for want, s := range map[int]*adminv1.Session{
		200: {PrincipalId: "ann", Amr: []string{"pwd", "otp", "pop"}, Acr: "gold"}, 401: {PrincipalId: "ann", Amr: []string{"pwd"}},
	} {
		created := does(t, o.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: s}).GetCreated()
		o.becomes(t, withCookie("/", created.GetSecret()), 200, "allowed")
		direct := o.ask(t, withCookie("/strong", created.GetSecret()))
		res := does(t, o.tokens.ExchangeToken, &adminv1.ExchangeTokenRequest{
			SubjectToken: created.GetSecret(), SubjectTokenType: "urn:postern:params:oauth:token-type:session", ActorToken: actor,
		})
		o.hide(res.GetAccessToken())
		q := strong
		q.headers = get("", bearer(res.GetAccessToken())...).headers
		if a := o.ask(t, q); a.status != want || direct.status != want {
			t.Errorf("%v: %v, and by the session itself %v", s.GetAmr(), a, direct)
		}
	}
	if a := o.ask(t, get("/strong", bearer(actor)...)); a.allowed() {
		t.Errorf("an agent by itself: %v", a)
	}
}

// BUDGET-03: who is not believed to say what requests cost cannot make them cheaper, at the
// check or afterwards.
func TestOnlyTheGatewaySaysWhatItCosts(t *testing.T) {
	t.Parallel()
	o := launchOrigins(t)
	token := o.issued(t, o.tokens, "researcher", 1000)
	d := o.spends(t, "/other", token, 600)
	if d.GetHttpStatus() != 200 || d.GetReservation() == "" {
		t.Fatal(d)
	}
	settle := func(who posternv1.UsageServiceClient, n int64) error {
		_, err := who.Settle(t.Context(), &posternv1.SettleRequest{Reservation: d.GetReservation(), Use: map[string]int64{"tokens": n}})
		return err
	}
	if err := settle(o.anybody, 1); status.Code(err) != codes.PermissionDenied || reasonOf(err) != "CALLER_NOT_TRUSTED" {
		t.Errorf("somebody settles for less: %v", err)
	}
	if d := o.spends(t, "/other", token, 600); d.GetHttpStatus() != 429 {
		t.Errorf("it was given back: %v", d)
	}
	if err := settle(o.trusted, 100); err != nil {
		t.Error(err)
	}
	if d := o.spends(t, "/other", token, 600); d.GetHttpStatus() != 200 {
		t.Errorf("it was not given back: %v", d)
	}
	// A cost that somebody else says is not heard.
	res, err := o.postern.Check(t.Context(), &posternv1.CheckRequest{Target: get("/other", bearer(token)...).forPostern(), Cost: map[string]int64{"tokens": 900}})
	if err != nil || !res.GetDecision().GetAllowed() || res.GetDecision().GetReservation() != "" {
		t.Errorf("%v %v", res, err)
	}
}

// Facts for the policy are not nested without end.
func TestContextIsBounded(t *testing.T) {
	t.Parallel()
	o := launchOrigins(t)
	deep := func(n int) *structpb.Struct {
		s := &structpb.Struct{}
		for range n {
			s = &structpb.Struct{Fields: map[string]*structpb.Value{"x": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStructValue(s)}})}}
		}
		return s
	}
	for n, code := range map[int]codes.Code{0: codes.OK, 10: codes.OK, 16: codes.InvalidArgument, 1000: codes.InvalidArgument} {
		for what, req := range map[string]*posternv1.CheckRequest{
			"context":    {Target: get("/").forPostern(), Context: deep(n)},
			"properties": {Target: &posternv1.Target{Kind: &posternv1.Target_Action{Action: &posternv1.ActionTarget{Action: "read", Properties: deep(n)}}}},
		} {
			if _, err := o.postern.Check(t.Context(), req); status.Code(err) != code {
				t.Errorf("%s, %d deep: %v", what, n, err)
			}
		}
	}
}
