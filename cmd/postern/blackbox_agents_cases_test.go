package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
)

// casesLab is world "cases", running in a process of its own: an agent named bot acts for
// alice; hana is a human who may approve, root an administrator.
type casesLab struct {
	*replica
	pki     pki
	web     certificate // of a workload, and of one in the sandbox
	sandbox certificate
	oauth   issuer
	gateway *people // who asks for approvals
	hana    *people
	root    *people
}

// people is somebody at the admin API, by a key of their own.
type people struct {
	key       string
	approvals adminv1.ApprovalServiceClient
	consents  adminv1.ConsentServiceClient
}

func launchCases(t testing.TB) *casesLab {
	t.Helper()
	w := prepare(t, "cases", "@STORE@", sqliteStore)
	lab := &casesLab{pki: newPKI(t, w.path("ca")), oauth: newIssuer("https://oauth.test", "o1")}
	lab.web, lab.sandbox = lab.pki.workload(t, "bot"), lab.pki.workload(t, "sandbox/7")
	w.write(t, "jwks.json", jwks(testIssuer))
	w.write(t, "oauth.json", jwks(lab.oauth))
	if err := os.Mkdir(w.path("audit"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.bootstrap(t)
	lab.replica = launch(t, w)
	lab.principal(t, &adminv1.Principal{Id: "gateway", Kind: aService, Permissions: []string{"postern.approvals.request"}})
	lab.user(t, "hana", "approver")
	lab.user(t, "boss", "platform-admin")
	_, key := lab.key(t, "gateway")
	lab.gateway = lab.person(t, key)
	for who, id := range map[**people]string{&lab.hana: "hana", &lab.root: "boss"} {
		_, key := lab.issue(t, &adminv1.Credential{Type: pat, PrincipalId: id, DisplayName: "desk"})
		*who = lab.person(t, key)
	}
	return lab
}

func (lab *casesLab) person(t testing.TB, key string) *people {
	t.Helper()
	lab.hide(key)
	conn := dial(t, lab.replica.admin, grpc.WithPerRPCCredentials(callToken(key)))
	return &people{key, adminv1.NewApprovalServiceClient(conn), adminv1.NewConsentServiceClient(conn)}
}

// delegated is a token of alice's by which bot acts for her.
func (lab *casesLab) delegated(scopes string) []string {
	return bearer(lab.oauth.token(claims{"sub": "alice", "scope": scopes, "act": claims{"sub": "bot"}}))
}

// asks asks ext_authz, which is what uses an approval up, and again where a busy machine
// was blind.
func (lab *casesLab) asks(t testing.TB, q request) (a answer) {
	t.Helper()
	eventually(t, "an answer to "+q.path, func() bool {
		a = lab.askEnvoy(t, q)
		return a.status != http.StatusServiceUnavailable || a.reason == "audit_unavailable"
	})
	return a
}

func (lab *casesLab) is(t testing.TB, q request, status int, reason string) answer {
	t.Helper()
	a := lab.asks(t, q)
	if a.status != status || a.reason != reason {
		t.Errorf("%s %s: %v, want %d %s", q.method, q.path, a, status, reason)
	}
	return a
}

// proposed is what a deny says that somebody has to approve.
func proposed(t testing.TB, a answer) string {
	t.Helper()
	var body struct {
		Reason, Action string
		Proposal       json.RawMessage
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Proposal == nil || body.Action != a.header("x-postern-action") || len(body.Action) != 64 {
		t.Fatalf("%v: %s", err, a.body)
	}
	return string(body.Proposal)
}

// wish has the gateway ask for the approval of a request that was denied.
func (lab *casesLab) wish(t testing.TB, q request) string {
	t.Helper()
	text := proposed(t, lab.is(t, q, 403, "approval_required"))
	return does(t, lab.gateway.approvals.RequestApproval, &adminv1.RequestApprovalRequest{Proposal: text, Reason: "a test"}).GetApproval().GetId()
}

// approve has somebody say yes, and waits until the replica has heard of it.
func (lab *casesLab) approve(t testing.TB, who *people, id string) {
	t.Helper()
	change := does(t, who.approvals.ApproveApproval, &adminv1.ApproveApprovalRequest{Id: id}).GetChange()
	eventually(t, "the replica knows of the approval", func() bool { return lab.change(t) >= int(change.GetNumber()) })
}

// showing is the request with an approval.
func (q request) showing(id string) request {
	q.headers = append(slices.Clip(q.headers), policy.Header{Name: "x-postern-approval", Value: id})
	return q
}

func TestAgentCases(t *testing.T) {
	t.Parallel()
	lab := launchCases(t)
	t.Run("A-12 reads public data", func(t *testing.T) { readsPublicData(t, lab) })
	t.Run("A-13 changes user data", func(t *testing.T) { changesUserData(t, lab) })
	t.Run("A-14 calls an external API", func(t *testing.T) { callsExternalAPI(t, lab) })
	t.Run("A-14 who approves", func(t *testing.T) { whoApproves(t, lab) })
	t.Run("A-14 one of many", func(t *testing.T) { approvedOnce(t, lab) })
	t.Run("A-15 runs code", func(t *testing.T) { runsCode(t, lab) })
	t.Run("A-19 other routes", func(t *testing.T) {
		token := bearer(testIssuer.token(claims{"sub": "bot", "scope": "exec:sandbox"}))
		lab.is(t, get("/other", token...), 403, "policy_denied")
		// A route that forgot its demands is closed by the policy.
		lab.is(t, get("/forgotten/x", token...), 403, "attestation_required")
		lab.is(t, get("/forgotten/x", plus(token, lab.sandbox.xfcc())...), 403, "approval_required")
	})
}

// an API key with the scope, and nobody has to agree.
func readsPublicData(t *testing.T, lab *casesLab) {
	lab.principal(t, &adminv1.Principal{Id: "reader", Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_AGENT, Scopes: []string{"data:read"}})
	lab.principal(t, &adminv1.Principal{Id: "writer", Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_AGENT, Scopes: []string{"data:write"}})
	_, reads := lab.key(t, "reader")
	_, writes := lab.key(t, "writer")
	lab.becomes(t, withKey("/public/x", reads), 200, "allowed")
	lab.is(t, withKey("/public/x", writes), 403, "insufficient_scope")
	lab.is(t, get("/public/x"), 401, "credential_missing")
}

// a token by which bot acts for alice, and alice has consented to it.
func changesUserData(t *testing.T, lab *casesLab) {
	q := get("/data/7", lab.delegated("data:write")...).with("PUT")
	lab.principal(t, &adminv1.Principal{Id: "batch", Kind: aService, Scopes: []string{"data:write"}})
	_, key := lab.key(t, "batch")
	lab.becomes(t, withKey("/data/7", key), 403, "delegation_denied") // a key of its own is not enough
	lab.is(t, get("/data/7", bearer(lab.oauth.token(claims{"sub": "alice", "scope": "data:write"}))...), 403, "delegation_denied")
	lab.is(t, get("/data/7", lab.delegated("data:read")...), 403, "insufficient_scope")
	if a := lab.is(t, q, 403, "consent_required"); !strings.Contains(a.body, "The user has not consented to data:write for bot.") {
		t.Error(a.body)
	}
	// No agent consents for its user, and nobody for another without saying why.
	grant := func(c *adminv1.Consent) *adminv1.GrantConsentRequest { return &adminv1.GrantConsentRequest{Consent: c} }
	alices := &adminv1.Consent{PrincipalId: "alice", Issuer: lab.oauth.url, ActorId: "bot", Scopes: []string{"data:read"}, Evidence: "the form of today"}
	refuses(t, lab.gateway.consents.GrantConsent, grant(alices), codes.PermissionDenied, "PERMISSION_DENIED")
	refuses(t, lab.root.consents.GrantConsent, grant(&adminv1.Consent{PrincipalId: "alice", Issuer: lab.oauth.url, ActorId: "bot", Scopes: []string{"data:write"}}),
		codes.InvalidArgument, "INVALID_FIELD")

	given := does(t, lab.root.consents.GrantConsent, grant(alices)).GetConsent()
	eventually(t, "the deny names the consent that is too narrow", func() bool {
		a := lab.is(t, q, 403, "consent_required")
		return strings.Contains(a.body, given.GetId())
	})
	alices.Scopes = []string{"data:write"}
	if again := does(t, lab.root.consents.GrantConsent, grant(alices)).GetConsent(); again.GetId() != given.GetId() {
		t.Error(again)
	}
	lab.becomes(t, q, 200, "allowed")
	// Of another user, and to another agent, it says nothing.
	lab.is(t, get("/data/7", bearer(lab.oauth.token(claims{"sub": "bob", "scope": "data:write", "act": claims{"sub": "bot"}}))...), 403, "consent_required")
	lab.is(t, get("/data/7", bearer(lab.oauth.token(claims{"sub": "alice", "scope": "data:write", "act": claims{"sub": "other", "act": claims{"sub": "bot"}}}))...), 403, "consent_required")
	lab.is(t, get("/data/7", bearer(testIssuer.token(claims{"sub": "alice", "scope": "data:write", "act": claims{"sub": "bot"}}))...), 403, "consent_required")

	does(t, lab.root.consents.WithdrawConsent, &adminv1.WithdrawConsentRequest{Id: given.GetId(), Reason: "enough"})
	lab.becomes(t, q, 403, "consent_required")
}

// a token and a certificate, and a human who has approved exactly this.
func callsExternalAPI(t *testing.T, lab *casesLab) {
	token, cert := lab.delegated("external:invoke"), lab.web.xfcc()
	_, key := lab.key(t, "gateway")
	a := get("/external/a?x=1", plus(token, cert, []string{"content-type", "application/json"})...).posting(`{"amount":1}`)
	b := a
	b.path = "/external/b?x=1"

	// Each missing part has its own reason.
	lab.is(t, get("/external/a", token...), 401, "credential_missing")
	lab.is(t, get("/external/a", cert...), 401, "credential_missing")
	lab.is(t, get("/external/a", plus([]string{"x-api-key", key}, cert)...), 401, "method_not_accepted")
	lab.is(t, get("/external/a", plus(lab.delegated("data:read"), cert)...), 403, "insufficient_scope")

	id := lab.wish(t, a)
	lab.is(t, a.showing(id), 403, "approval_required") // nobody has approved it yet
	got := does(t, lab.hana.approvals.GetApproval, &adminv1.GetApprovalRequest{Id: id}).GetApproval()
	for _, words := range []string{"POST https://api.test/external/a?x=1", "12 bytes", "by alice", "through bot"} {
		if !strings.Contains(got.GetDescription(), words) {
			t.Errorf("the approver does not see %q: %s", words, got.GetDescription())
		}
	}
	lab.approve(t, lab.hana, id)
	// It is for this request, and for no other.
	other := a
	other.body = `{"amount":2}`
	for what, q := range map[string]request{
		"another URL": b, "another body": other, "no body": a.posting(""), "another method": a.with("PUT"), "another host": a.at("api2.test"),
		"another query": func() request { q := a; q.path = "/external/a?x=2"; return q }(),
		"another user": get("/external/a?x=1", plus(bearer(lab.oauth.token(claims{"sub": "bob", "scope": "external:invoke", "act": claims{"sub": "bot"}})), cert,
			[]string{"content-type", "application/json"})...).posting(`{"amount":1}`),
		"another agent": get("/external/a?x=1", plus(bearer(lab.oauth.token(claims{"sub": "alice", "scope": "external:invoke", "act": claims{"sub": "bot2"}})), cert,
			[]string{"content-type", "application/json"})...).posting(`{"amount":1}`),
		"another id": a,
	} {
		shown := q.showing(id)
		if what == "another id" {
			shown = q.showing("AAAAAAAAAAAA")
		}
		if got := lab.asks(t, shown); got.status != 403 || got.reason != "approval_required" {
			t.Errorf("%s: %v", what, got)
		}
	}
	cut := a.showing(id).forEnvoy()
	cut.GetAttributes().GetRequest().GetHttp().Headers["x-envoy-auth-partial-body"] = "true"
	if got := lab.askRaw(t, cut); got.allowed() {
		t.Error("a body that was cut fits an approval")
	}
	lab.is(t, a.showing(id).showing(id), 400, "request_invalid")

	got1 := lab.is(t, a.showing(id), 200, "allowed")
	if !slices.Contains(got1.removed, "x-postern-approval") {
		t.Errorf("the upstream sees the approval: %v", got1.removed)
	}
	lab.is(t, a.showing(id), 403, "approval_required")
	used := does(t, lab.hana.approvals.GetApproval, &adminv1.GetApprovalRequest{Id: id}).GetApproval()
	if used.GetState() != adminv1.ApprovalState_APPROVAL_STATE_USED || used.GetDecisionId() != got1.id || used.GetDecidedBy() != "/hana" {
		t.Errorf("%v", used)
	}
	lab.trailNames(t, id)

	// The other door says the same, and has it beside the message.
	res, err := lab.postern.Check(context.Background(), &posternv1.CheckRequest{Target: b.forPostern()})
	if err != nil || res.GetDecision().GetProposal().GetText() != canonicalProposal(t, proposed(t, lab.asks(t, b))) {
		t.Errorf("%v %v", err, res.GetDecision().GetProposal())
	}

	// The command line does the whole of it.
	lab.write(t, "denied.json", lab.is(t, b, 403, "approval_required").body)
	lab.write(t, "gateway.key", lab.gateway.key)
	lab.write(t, "hana.key", lab.hana.key)
	lab.write(t, "body.json", b.body)
	cli := func(key string, args ...string) string {
		return postern(t, append(args, "--server", lab.replica.admin, "--token-file", lab.path(key), "-o", "json")...)
	}
	var asked struct{ Approval struct{ ID, Body string } }
	if err := json.Unmarshal([]byte(cli("gateway.key", "approval", "request", lab.path("denied.json"), "--body", lab.path("body.json"))), &asked); err != nil || asked.Approval.Body != b.body {
		t.Fatal(err, asked)
	}
	cli("hana.key", "approval", "approve", asked.Approval.ID)
	lab.becomes(t, b.showing(asked.Approval.ID), 200, "allowed")
}

// canonicalProposal is the text of a proposal that went through a JSON body.
func canonicalProposal(t testing.TB, text string) string {
	t.Helper()
	p, err := policy.ParseProposal(text)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return out.Text
}

// trailNames looks for the human and the agent in the audit log.
func (lab *casesLab) trailNames(t testing.TB, id string) {
	t.Helper()
	for _, want := range []struct{ action, actor, key, value string }{
		{"approval.request", "/gateway", "agent", "bot"},
		{"approval.approve", "/hana", "requester", "https://oauth.test#alice"},
		{"approval.use", "/https://oauth.test#alice", "approver", "/hana"},
		{"approval.use", "/https://oauth.test#alice", "agent", "bot"},
	} {
		res := does(t, lab.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{Action: want.action, Target: "approval/" + id})
		if n := len(res.GetEntries()); n != 1 || res.GetEntries()[0].GetActor() != want.actor || res.GetEntries()[0].GetDetail()[want.key] != want.value {
			t.Errorf("%s: %v, want %s by %s", want.action, res.GetEntries(), want.value, want.actor)
		}
	}
}

// who may not approve, over the wire.
func whoApproves(t *testing.T, lab *casesLab) {
	// An agent with a token of its own asks for itself.
	lab.principal(t, &adminv1.Principal{Id: "crawler", Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_AGENT, Roles: []string{"approver", "platform-admin"}})
	_, key := lab.key(t, "crawler")
	crawler := lab.person(t, key)
	q := get("/external/who", plus(lab.delegated("external:invoke"), lab.web.xfcc())...)
	id := lab.wish(t, q)
	refuses(t, crawler.approvals.ApproveApproval, &adminv1.ApproveApprovalRequest{Id: id}, codes.PermissionDenied, "PERMISSION_DENIED") // an agent, whatever its roles
	refuses(t, lab.gateway.approvals.ApproveApproval, &adminv1.ApproveApprovalRequest{Id: id}, codes.NotFound, "NOT_FOUND")             // has not the right
	lab.user(t, "carl")
	_, carls := lab.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "carl", DisplayName: "desk"})
	carl := lab.person(t, carls)
	refuses(t, carl.approvals.ApproveApproval, &adminv1.ApproveApprovalRequest{Id: id}, codes.NotFound, "NOT_FOUND")
	refuses(t, carl.approvals.RequestApproval, &adminv1.RequestApprovalRequest{Proposal: proposed(t, lab.asks(t, q))}, codes.PermissionDenied, "PERMISSION_DENIED") // for another

	does(t, lab.hana.approvals.DenyApproval, &adminv1.DenyApprovalRequest{Id: id, Reason: "no"})
	refuses(t, lab.hana.approvals.ApproveApproval, &adminv1.ApproveApprovalRequest{Id: id}, codes.FailedPrecondition, "WRONG_STATE")
	lab.is(t, q.showing(id), 403, "approval_required")

	// Who has approved and is turned off before it is used has approved nothing.
	lab.user(t, "temp", "approver")
	_, temps := lab.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "temp", DisplayName: "desk"})
	temp := lab.person(t, temps)
	id = lab.wish(t, q)
	lab.approve(t, temp, id)
	lab.run(t, "user", "disable", "temp")
	lab.is(t, q.showing(id), 403, "approval_required")
}

// of many who show one approval at once, one gets through.
func approvedOnce(t *testing.T, lab *casesLab) {
	q := get("/external/race", plus(lab.delegated("external:invoke"), lab.web.xfcc())...)
	for range 3 {
		id := lab.wish(t, q)
		lab.approve(t, lab.hana, id)
		var all sync.WaitGroup
		var mu sync.Mutex
		answers := map[string]int{}
		for range 16 {
			all.Go(func() {
				a := lab.asks(t, q.showing(id))
				mu.Lock()
				defer mu.Unlock()
				answers[fmt.Sprintf("%d %s", a.status, a.reason)]++
			})
		}
		all.Wait()
		if answers["200 allowed"] != 1 || answers["403 approval_required"] != 15 {
			t.Errorf("%v", answers)
		}
	}
}

// a signed token in a sandbox, an administrator's approval, and it is in the
// journal before anybody hears of it.
func runsCode(t *testing.T, lab *casesLab) {
	token := bearer(testIssuer.token(claims{"sub": "bot", "scope": "exec:sandbox"}))
	run := func(cert certificate) request { return get("/run", plus(token, cert.xfcc())...).posting("print(7)") }
	q := run(lab.sandbox)
	lab.is(t, get("/run", token...).posting("print(7)"), 403, "attestation_required")
	lab.is(t, run(lab.web), 403, "attestation_required")
	lab.is(t, get("/run", plus(bearer(testIssuer.token(claims{"sub": "bot", "scope": "data:read"})), lab.sandbox.xfcc())...), 403, "insufficient_scope")
	lab.is(t, get("/run", plus(lab.delegated("exec:sandbox"), lab.sandbox.xfcc())...), 401, "method_not_accepted")

	id := lab.wish(t, q)
	refuses(t, lab.hana.approvals.ApproveApproval, &adminv1.ApproveApprovalRequest{Id: id}, codes.PermissionDenied, "PERMISSION_DENIED") // no administrator
	lab.approve(t, lab.root, id)

	// The journal is away: nothing runs, nothing is used up, and the replica says so.
	dir := lab.path("audit")
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	lab.write(t, "audit", "in the way")
	lab.is(t, q.showing(id), 503, "audit_unavailable")
	if status, body := lab.fetch(t, "/readyz"); status != 503 || !strings.Contains(body, `"journal"`) {
		t.Errorf("%d %s", status, body)
	}
	lab.is(t, withKey("/public/y", lab.gateway.key), 403, "insufficient_scope") // others do not wait for it
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	var a answer
	eventually(t, "it runs once the journal is back", func() bool {
		a = lab.asks(t, q.showing(id))
		return a.allowed()
	})
	found := false
	for line := range strings.Lines(lab.read(t, "audit/journal.log")) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		found = found || entry["decision_id"] == a.id && entry["allowed"] == true && entry["principal"] == "bot" && entry["approval"] == id && entry["route"] == "run"
	}
	if !found {
		t.Errorf("%s is not in the journal: %s", a.id, lab.read(t, "audit/journal.log"))
	}
	eventually(t, "the replica is ready again", func() bool {
		status, _ := lab.fetch(t, "/readyz")
		return status == 200
	})
	lab.is(t, q.showing(id), 403, "approval_required")
	lab.leaks(t, "journal", lab.read(t, "audit/journal.log"))
}
