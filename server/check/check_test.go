package check_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/check"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a Checker whose authenticator and policy a test plays.
type world struct {
	cfg     check.Config
	proofs  map[string]*authn.Proof // by credential
	errs    map[string]error
	decider *decider
	now     time.Time
	ring    *audit.Ring
	log     bytes.Buffer
}

type decider struct {
	verdict *policy.Verdict
	err     error
	panics  bool
	asked   int
	input   policy.Input
	takes   func() // what happens meanwhile; may be nil
}

func (d *decider) Decide(_ context.Context, in *policy.Input) (*policy.Verdict, bool, error) {
	d.asked++
	d.input = *in
	if d.takes != nil {
		d.takes()
	}
	if d.panics {
		panic("a secret text")
	}
	return d.verdict, false, d.err
}

func (d *decider) Revision() string { return "r1" }

func (w *world) Authenticate(_ context.Context, c *authn.Credential) (*authn.Proof, error) {
	if err := w.errs[c.Secret.Reveal()]; err != nil {
		return nil, err
	}
	if p := w.proofs[c.Secret.Reveal()]; p != nil {
		return p, nil
	}
	return nil, authn.Refuse(policy.ReasonCredentialUnknown, "")
}

func proof(id string, method policy.Method) *authn.Proof {
	return &authn.Proof{
		Principal: &policy.Principal{ID: id, Kind: policy.KindUser, Method: method, Assurance: 2, Tenant: "acme", Roles: []string{"admin", "dev"}},
		Subject:   authn.Subject{TokenID: "t-" + id}, State: policy.StateMirror,
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	reader, err := canonical.New(canonical.Config{CredentialHeaders: []string{"x-api-key"}})
	if err != nil {
		t.Fatal(err)
	}
	rules := []authn.Rule{rule(t, "header:x-api-key", "api_key"), rule(t, "header:authorization/bearer", "jwt"), rule(t, "query:api_key", "api_key")}
	w := &world{
		proofs:  map[string]*authn.Proof{"key": proof("alice", "api_key"), "jwt": proof("alice", "jwt")},
		errs:    map[string]error{},
		decider: &decider{verdict: &policy.Verdict{Allow: true, Revision: "r1"}},
		now:     noon,
		ring:    audit.NewRing(16),
	}
	w.cfg = check.Config{
		Reader: reader, Extractor: authn.NewExtractor(rules), Rules: rules, Authenticator: w, Decider: w.decider,
		Recorder: w.ring, Realm: "test", Now: func() time.Time { return w.now }, Logger: slog.New(slog.NewTextHandler(&w.log, nil)),
		DecisionHeader: "x-auth-decision",
		Identity: []check.IdentityHeader{
			{Name: "x-auth-principal", Value: func(p *policy.Principal) string { return check.FieldValue(p.ID, "") }},
			{Name: "x-auth-tenant", Value: func(p *policy.Principal) string { return check.FieldValue(p.Tenant, "") }},
		},
	}
	return w
}

func rule(t *testing.T, from string, uses ...policy.Method) authn.Rule {
	t.Helper()
	at, err := authn.ParseLocation(from)
	if err != nil {
		t.Fatal(err)
	}
	return authn.Rule{From: at, Uses: uses}
}

// request is GET https://api.test/things with header fields as name, value, ….
func request(fields ...string) *policy.Attributes {
	a := &policy.Attributes{Door: "test", Method: "GET", Scheme: "https", Host: "api.test", Path: "/things", RequestID: "req-1"}
	for i := 0; i < len(fields); i += 2 {
		a.Headers = append(a.Headers, policy.Header{Name: fields[i], Value: fields[i+1]})
	}
	return a
}

func (w *world) check(t *testing.T, a *policy.Attributes) policy.Decision {
	t.Helper()
	d := check.New(w.cfg).Check(t.Context(), a)
	if d.Allowed != (d.Reason == policy.ReasonAllowed) || d.Status == 0 || d.ID == "" || !d.Allowed && d.Message == "" {
		t.Fatalf("a half-filled decision: %+v", d)
	}
	if d.Status == 401 && len(d.Challenges) == 0 {
		t.Errorf("a 401 without a challenge: %v", d.Reason)
	}
	return d
}

func want(t *testing.T, d policy.Decision, reason policy.Reason, phase policy.Phase) {
	t.Helper()
	if d.Reason != reason || d.Phase != phase || d.Status != reason.Status() {
		t.Errorf("%v (%d) in phase %v, want %v (%d) in %v; %s", d.Reason, d.Status, d.Phase, reason, reason.Status(), phase, d.Detail)
	}
}

// G-01: who could not be proven is 401, who may not is 403, and never the other
// way round.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	expired := proof("alice", "api_key")
	expired.NotAfter = noon
	tests := []struct {
		name   string
		fields []string
		change func(*world)
		reason policy.Reason
		phase  policy.Phase
	}{
		{"allowed", []string{"x-api-key", "key"}, nil, policy.ReasonAllowed, policy.PhaseRecord},
		{"no credential", nil, nil, policy.ReasonCredentialMissing, policy.PhaseFind},
		{"bad credential", []string{"x-api-key", "wrong"}, nil, policy.ReasonCredentialUnknown, policy.PhaseProve},
		{"expired since", []string{"x-api-key", "old"}, func(w *world) { w.proofs["old"] = expired }, policy.ReasonExpired, policy.PhaseHold},
		{"denied", []string{"x-api-key", "key"}, func(w *world) { w.decider.verdict = &policy.Verdict{} }, policy.ReasonPolicyDenied, policy.PhaseDecide},
		{"a deny that claims to be an allow", []string{"x-api-key", "key"}, func(w *world) { w.decider.verdict = &policy.Verdict{Reason: policy.ReasonAllowed} }, policy.ReasonPolicyDenied, policy.PhaseDecide},
		{"could not find out who", []string{"x-api-key", "key"}, func(w *world) { w.errs["key"] = errors.New("store down") }, policy.ReasonUnavailable, policy.PhaseProve},
		{"two credentials", []string{"x-api-key", "key", "authorization", "Bearer jwt"}, nil, policy.ReasonCredentialAmbiguous, policy.PhaseFind},
		{"unreadable", []string{"x-api-key", "key", "host", "other.test"}, nil, policy.ReasonRequestInvalid, policy.PhaseRead},
		{"no policy", []string{"x-api-key", "key"}, func(w *world) { w.decider.err = rego.ErrNoPolicy }, policy.ReasonNoPolicy, policy.PhaseDecide},
		{"policy too slow", []string{"x-api-key", "key"}, func(w *world) { w.decider.err = rego.ErrTimeout }, policy.ReasonPolicyTimeout, policy.PhaseDecide},
		{"policy fault", []string{"x-api-key", "key"}, func(w *world) { w.decider.err = errors.New("x") }, policy.ReasonPolicyFault, policy.PhaseDecide},
		{"no verdict at all", []string{"x-api-key", "key"}, func(w *world) { w.decider.verdict = nil }, policy.ReasonPolicyUndefined, policy.PhaseDecide},
		{"panic", []string{"x-api-key", "key"}, func(w *world) { w.decider.panics = true }, policy.ReasonInternal, policy.PhaseDecide},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if tt.change != nil {
				tt.change(w)
			}
			d := w.check(t, request(tt.fields...))
			want(t, d, tt.reason, tt.phase)
			if tt.phase < policy.PhaseDecide && w.decider.asked > 0 {
				t.Error("the policy was asked")
			}
			if r, ok := w.ring.Find(d.ID); !ok || r.Decision.Reason != tt.reason || r.Door != "test" {
				t.Errorf("recorded %v %+v", ok, r)
			}
			if strings.Contains(w.log.String()+d.Detail+d.Message, "secret text") {
				t.Error("the text of a panic got out")
			}
		})
	}
}

func route(change func(*policy.Route)) []policy.Route {
	r := policy.Route{Name: "r"}
	change(&r)
	return []policy.Route{r}
}

// G-03, K-10 and the rest of what a route can ask for.
func TestRoutes(t *testing.T) {
	t.Parallel()
	key, both, jwt := []string{"x-api-key", "key"}, []string{"x-api-key", "key", "authorization", "Bearer jwt"}, []string{"authorization", "Bearer jwt"}
	tests := []struct {
		name   string
		route  func(*policy.Route)
		fields []string
		reason policy.Reason
	}{
		{"any_of takes", func(r *policy.Route) { r.AnyOf = []policy.Method{"api_key"} }, key, policy.ReasonAllowed},
		{"any_of refuses", func(r *policy.Route) { r.AnyOf = []policy.Method{"jwt"} }, key, policy.ReasonMethodNotAccepted},
		{"all_of takes both", func(r *policy.Route) { r.AllOf = []policy.Method{"jwt", "api_key"} }, both, policy.ReasonAllowed},
		{"all_of misses one", func(r *policy.Route) { r.AllOf = []policy.Method{"jwt", "api_key"} }, key, policy.ReasonCredentialMissing},
		{"all_of with one twice", func(r *policy.Route) { r.AllOf = []policy.Method{"jwt", "api_key"} }, []string{"authorization", "Bearer jwt", "x-api-key", "jwt"}, policy.ReasonMethodNotAccepted},
		{"anonymous", func(r *policy.Route) { r.Anonymous = true }, nil, policy.ReasonAllowed},
		{"anonymous, but a bad credential", func(r *policy.Route) { r.Anonymous = true }, []string{"x-api-key", "wrong"}, policy.ReasonCredentialUnknown},
		{"kinds take", func(r *policy.Route) { r.Kinds = []policy.Kind{policy.KindUser} }, key, policy.ReasonAllowed},
		{"kinds refuse", func(r *policy.Route) { r.Kinds = []policy.Kind{policy.KindService} }, key, policy.ReasonPrincipalKind},
		{"tenant takes", func(r *policy.Route) { r.Tenant = "acme" }, key, policy.ReasonAllowed},
		{"tenant refuses", func(r *policy.Route) { r.Tenant = "other" }, key, policy.ReasonTenant},
		{"assurance takes", func(r *policy.Route) { r.MinAssurance = 2 }, key, policy.ReasonAllowed},
		{"assurance refuses", func(r *policy.Route) { r.MinAssurance = 3 }, key, policy.ReasonAssurance},
		{"max_age with no auth_time", func(r *policy.Route) { r.MaxAge = time.Hour }, jwt, policy.ReasonStepUp},
		{"scopes refuse", func(r *policy.Route) { r.Scopes = []string{"a", "b"} }, jwt, policy.ReasonScope},
		{"another route", func(r *policy.Route) { r.Methods = []string{"POST"}; r.AnyOf = []policy.Method{"jwt"} }, key, policy.ReasonAllowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cfg.Routes = route(tt.route)
			d := w.check(t, request(tt.fields...))
			if d.Reason != tt.reason {
				t.Errorf("%v, want %v; %s", d.Reason, tt.reason, d.Detail)
			}
		})
	}
}

// A spelling of the path that a forgiving server takes for another route's is
// refused, in both directions; spellings within one route are not.
func TestRoutesOfFoldedPaths(t *testing.T) {
	t.Parallel()
	pattern := func(text string) []policy.PathPattern {
		p, err := policy.ParsePathPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		return []policy.PathPattern{p}
	}
	w := newWorld(t)
	w.cfg.Routes = []policy.Route{
		{Name: "admin", Paths: pattern("/admin/**"), Scopes: []string{"admin"}},
		{Name: "reports", Paths: pattern("/Reports/**"), Scopes: []string{"admin"}},
		{Name: "billing", Paths: pattern("/billing")},
		{Name: "vault", Paths: pattern("/vault/")},
		{Name: "rest", Anonymous: true},
	}
	for path, want := range map[string]policy.Reason{
		"/admin": policy.ReasonCredentialMissing, "/ADMIN": policy.ReasonRequestInvalid, "/%41dmin/x": policy.ReasonRequestInvalid,
		"/admin%3Bx": policy.ReasonRequestInvalid, "/Reports/1": policy.ReasonCredentialMissing, "/reports/1": policy.ReasonRequestInvalid,
		"/admin/": policy.ReasonCredentialMissing, "/billing": policy.ReasonCredentialMissing, "/billing/": policy.ReasonRequestInvalid,
		"/vault/": policy.ReasonCredentialMissing, "/vault": policy.ReasonRequestInvalid,
		"/Things/ABC": policy.ReasonAllowed, "/administrator": policy.ReasonAllowed, "/admin/ABC": policy.ReasonCredentialMissing,
	} {
		a := request()
		a.Path = path
		if d := w.check(t, a); d.Reason != want {
			t.Errorf("%s: %v, want %v; %s", path, d.Reason, want, d.Detail)
		}
	}
}

// A method in another case, which a forgiving server takes for the same, is refused where
// that is another route's, in both directions, and also together with the path.
func TestRoutesOfFoldedMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	under, err := policy.ParsePathPattern("/m/**")
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Routes = []policy.Route{
		{Name: "delete", Methods: []string{"DELETE"}, Paths: []policy.PathPattern{under}},
		{Name: "get", Methods: []string{"GET"}, Paths: []policy.PathPattern{under}},
		{Name: "purge", Methods: []string{"purge"}},
		{Name: "rest", Anonymous: true},
	}
	for line, want := range map[string]policy.Reason{
		"DELETE /m/x": policy.ReasonCredentialMissing, "delete /m/x": policy.ReasonRequestInvalid, "Delete /m/x": policy.ReasonRequestInvalid,
		"delete /M/x": policy.ReasonRequestInvalid, "DELETE /M/x": policy.ReasonRequestInvalid,
		"head /m/x": policy.ReasonRequestInvalid, "get /m/x": policy.ReasonRequestInvalid, "patch /m/x": policy.ReasonAllowed,
		"purge /x": policy.ReasonCredentialMissing, "PURGE /x": policy.ReasonRequestInvalid, "delete /x": policy.ReasonAllowed,
	} {
		a := request()
		a.Method, a.Path, _ = strings.Cut(line, " ")
		if d := w.check(t, a); d.Reason != want {
			t.Errorf("%s: %v, want %v; %s", line, d.Reason, want, d.Detail)
		}
	}
}

// HEAD asks for what GET does, and meets what GET demands.
func TestRoutesOfGETCoverHEAD(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Routes = []policy.Route{{Name: "get", Methods: []string{"GET"}}, {Name: "rest", Anonymous: true}}
	a := request()
	a.Method = "HEAD"
	want(t, w.check(t, a), policy.ReasonCredentialMissing, policy.PhaseFind)
}

// the tenant that the caller names must be the principal's, whatever the
// policy says.
func TestTenantOfTheCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for tenant, want := range map[string]policy.Reason{"": policy.ReasonAllowed, "acme": policy.ReasonAllowed, "globex": policy.ReasonTenant} {
		a := request("x-api-key", "key")
		a.Tenant = tenant
		if d := w.check(t, a); d.Reason != want {
			t.Errorf("%q: %v, want %v", tenant, d.Reason, want)
		}
	}
	w.proofs["key"].Principal.Tenant = ""
	a := request("x-api-key", "key")
	a.Tenant = "globex"
	want(t, w.check(t, a), policy.ReasonTenant, policy.PhaseHold)
}

// An agent that was revoked cannot go on in somebody else's name.
func TestRevokedActor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.proofs["jwt"].Principal.Actors = []policy.Actor{{ID: "bot"}}
	w.cfg.Revocations = revokedID("bot")
	want(t, w.check(t, request("authorization", "Bearer jwt")), policy.ReasonRevoked, policy.PhaseHold)
}

// A line that names an agent, and one that a tenant has added, reach an agent that
// acts for somebody of the tenant, and nobody of another.
func TestRevokedActorOfATenant(t *testing.T) {
	t.Parallel()
	then := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, line := range map[string]authn.Revocation{
		"agent":           {Agent: "bot", IssuedBefore: then},
		"agent, within":   {Agent: "bot", IssuedBefore: then, Within: "acme"},
		"subject, within": {Subject: "bot", Issuer: "idp", IssuedBefore: then, Within: "acme"},
	} {
		for _, tenant := range []string{"acme", "globex"} {
			w := newWorld(t)
			denied := authn.NewDenylist()
			if err := denied.Set("line", &line); err != nil {
				t.Fatal(err)
			}
			proof := w.proofs["jwt"]
			proof.Principal.Actors = []policy.Actor{{ID: "bot"}}
			proof.Subject = authn.Subject{Issuer: "idp", ID: "alice", Tenant: tenant, IssuedAt: then.Add(-time.Hour)}
			w.cfg.Revocations = denied
			revoked := line.Within == "" || line.Within == tenant
			if d := w.check(t, request("authorization", "Bearer jwt")); (d.Reason == policy.ReasonRevoked) != revoked {
				t.Errorf("%s, for %s: %v", name, tenant, d.Reason)
			}
		}
	}
}

type revokedID string

func (id revokedID) Revoked(s *authn.Subject) (policy.Reason, bool) {
	return policy.ReasonRevoked, s.ID == string(id)
}

// O-02: one challenge names all missing scopes.
func TestMissingScopesInOneChallenge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Routes = route(func(r *policy.Route) { r.Scopes = []string{"orders:read", "have", "orders:write"} })
	w.proofs["jwt"].Principal.Scopes = []string{"have"}
	d := w.check(t, request("authorization", "Bearer jwt"))
	want(t, d, policy.ReasonScope, policy.PhaseHold)
	if !slices.Equal(d.MissingScopes, []string{"orders:read", "orders:write"}) {
		t.Errorf("missing %v", d.MissingScopes)
	}
	const challenge = `Bearer realm="test", error="insufficient_scope", error_description="The credential lacks a scope.", scope="orders:read orders:write"`
	if len(d.Challenges) == 0 || d.Challenges[0] != challenge {
		t.Errorf("challenges %q", d.Challenges)
	}
}

// T-01, T-04 and J-05: the challenges of RFC 6750 section 3.1.
func TestChallenges(t *testing.T) {
	t.Parallel()
	tests := []struct {
		fields []string
		want   string
	}{
		{nil, `Bearer realm="test" | ApiKey realm="test"`},
		{[]string{"authorization", "Bearer wrong"}, `Bearer realm="test", error="invalid_token", error_description="The credential is not valid." | ApiKey realm="test"`},
		{[]string{"authorization", `Bearer x", error="none`}, `Bearer realm="test", error="invalid_token", error_description="The credential is not valid." | ApiKey realm="test"`},
		{[]string{"authorization", "Basic x"}, `Bearer realm="test", error="invalid_request", error_description="This kind of credential is not supported." | ApiKey realm="test"`},
	}
	for _, tt := range tests {
		w := newWorld(t)
		d := w.check(t, request(tt.fields...))
		if got := strings.Join(d.Challenges, " | "); got != tt.want {
			t.Errorf("%q gives\n%s, want\n%s", tt.fields, got, tt.want)
		}
	}
}

// G-08: a credential over plaintext is refused, and a good one told of.
func TestPlaintext(t *testing.T) {
	t.Parallel()
	plain := func(fields ...string) *policy.Attributes {
		a := request(fields...)
		a.Scheme = "http"
		return a
	}
	w := newWorld(t)
	var quarantined []string
	w.cfg.Quarantine = func(p *policy.Principal) { quarantined = append(quarantined, p.ID) }
	want(t, w.check(t, plain("x-api-key", "key")), policy.ReasonPlaintext, policy.PhaseHold)
	want(t, w.check(t, plain("x-api-key", "wrong")), policy.ReasonCredentialUnknown, policy.PhaseProve)
	if !slices.Equal(quarantined, []string{"alice"}) {
		t.Errorf("quarantined %v", quarantined)
	}
	w.cfg.Routes = route(func(r *policy.Route) { r.InsecurePlaintext = true })
	want(t, w.check(t, plain("x-api-key", "key")), policy.ReasonAllowed, policy.PhaseRecord)
	w.cfg.Routes = route(func(r *policy.Route) { r.Anonymous = true })
	want(t, w.check(t, plain()), policy.ReasonAllowed, policy.PhaseRecord)
	w.cfg.Routes, w.cfg.InsecurePlaintext = nil, true
	want(t, w.check(t, plain("x-api-key", "key")), policy.ReasonAllowed, policy.PhaseRecord)
}

// G-14: a query credential works on the route that opted in, is stripped, and
// counted by where it was found.
func TestQueryCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := request()
	a.Path = "/things?api_key=key&page=2"
	want(t, w.check(t, a), policy.ReasonCredentialInQuery, policy.PhaseFind)
	w.cfg.Routes = route(func(r *policy.Route) { r.InsecureQueryCredential = "api_key" })
	d := w.check(t, a)
	want(t, d, policy.ReasonAllowed, policy.PhaseRecord)
	if !slices.Equal(d.RemoveQuery, []string{"api_key"}) {
		t.Errorf("removes %v", d.RemoveQuery)
	}
	r, _ := w.ring.Find(d.ID)
	if r.Found != "query:api_key" || strings.Contains(r.Path, "?") {
		t.Errorf("recorded %+v", r)
	}
}

// A policy that allows with another query allows nothing where the door cannot change it,
// and nothing is charged then.
func TestQueryOfThePolicy(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]*policy.Verdict{
		"removed": {Allow: true, RemoveQuery: []string{"admin"}}, "set": {Allow: true, SetQuery: []policy.Header{{Name: "page", Value: "1"}}},
	} {
		w := newWorld(t)
		w.decider.verdict = v
		a := request("x-api-key", "key")
		d := w.check(t, a)
		want(t, d, policy.ReasonPolicyResult, policy.PhaseDecide)
		if r, _ := w.ring.Find(d.ID); !strings.Contains(r.Decision.Detail, "another query") {
			t.Errorf("%s: recorded as %q", name, r.Decision.Detail)
		}
		a.ChangesQuery = true
		want(t, w.check(t, a), policy.ReasonAllowed, policy.PhaseRecord)
	}
}

// G-16: the constraints of a credential hold whatever its kind and the policy.
func TestConstraintsHoldForEveryKind(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"api_key", "jwt"} {
		w := newWorld(t)
		p := proof("alice", policy.Method(kind))
		p.Constraints = &policy.Constraints{Methods: []string{"GET"}}
		w.proofs["key"] = p
		want(t, w.check(t, request("x-api-key", "key")), policy.ReasonAllowed, policy.PhaseRecord)
		a := request("x-api-key", "key")
		a.Method = "POST"
		want(t, w.check(t, a), policy.ReasonRequestMethod, policy.PhaseHold)
	}
}

type denylist map[string]bool

func (d denylist) Revoked(s *authn.Subject) (policy.Reason, bool) {
	return policy.ReasonRevoked, d[s.TokenID]
}

// J-09: what is on the denylist is refused from the next check on, however it
// was proven.
func TestRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := denylist{}
	w.cfg.Revocations = list
	c := check.New(w.cfg)
	if d := c.Check(t.Context(), request("authorization", "Bearer jwt")); !d.Allowed {
		t.Fatal(d.Reason)
	}
	list["t-alice"] = true
	want(t, c.Check(t.Context(), request("authorization", "Bearer jwt")), policy.ReasonRevoked, policy.PhaseHold)
}

// P-13: what came from others falls with each of them, and whatever is made of it is told
// of all.
func TestRevokedOrigins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := denylist{}
	w.cfg.Revocations = list
	p := w.proofs["jwt"]
	p.Origins = []authn.Subject{{TokenID: "first", Issuer: "https://idp.example"}, {TokenID: "second", Issuer: "postern"}}
	c := check.New(w.cfg)
	ask := func() *policy.Attributes { return request("authorization", "Bearer jwt") }
	if d := c.Check(t.Context(), ask()); !d.Allowed {
		t.Fatal(d.Reason)
	}
	d, who := c.Identify(t.Context(), ask())
	if diff := cmp.Diff(append([]authn.Subject{p.Subject}, p.Origins...), who.Origins); !d.Allowed || diff != "" {
		t.Errorf("%v %s", d.Reason, diff)
	}
	for _, id := range []string{"first", "second"} {
		list[id] = true
		want(t, c.Check(t.Context(), ask()), policy.ReasonRevoked, policy.PhaseHold)
		if d, who := c.Identify(t.Context(), ask()); d.Reason != policy.ReasonRevoked || who.Origins != nil || who.Limits != nil {
			t.Errorf("%s: %v %+v", id, d.Reason, who)
		}
		delete(list, id)
	}
}

// The identity that goes upstream is Postern's own; a client's is removed, also
// one that the gateway did not show, and the credential with it.
type sight check.Freshness

func (s sight) Freshness(time.Time) check.Freshness { return check.Freshness(s) }

// G-12, E-06: a replica that may have missed a revocation lets nobody in by a
// credential, and does not call a key unknown that may just have been issued; where
// the configuration prefers an old answer, the decision says that it is one.
func TestFreshness(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Routes = []policy.Route{{Name: "open", Methods: []string{"OPTIONS"}, Anonymous: true}}
	open := request()
	open.Method = "OPTIONS"
	for _, c := range []struct {
		freshness check.Freshness
		request   *policy.Attributes
		want      policy.Reason
		state     policy.State
	}{
		{check.Fresh, request("x-api-key", "key"), policy.ReasonAllowed, policy.StateMirror},
		{check.Stale, request("x-api-key", "key"), policy.ReasonAllowed, policy.StateStale},
		{check.Blind, request("x-api-key", "key"), policy.ReasonUnavailable, policy.StateMirror},
		{check.Blind, request("authorization", "Bearer jwt"), policy.ReasonUnavailable, policy.StateMirror},
		{check.Fresh, request("x-api-key", "other"), policy.ReasonCredentialUnknown, policy.StateNone},
		{check.Stale, request("x-api-key", "other"), policy.ReasonCredentialUnknown, policy.StateNone},
		{check.Blind, request("x-api-key", "other"), policy.ReasonUnavailable, policy.StateNone},
		{check.Freshness(9), request("x-api-key", "key"), policy.ReasonUnavailable, policy.StateMirror},
		{check.Blind, open, policy.ReasonAllowed, policy.StateNone},
	} {
		w.cfg.Sight = func() check.Sight { return sight(c.freshness) }
		if d := w.check(t, c.request); d.Reason != c.want || d.State != c.state {
			t.Errorf("%v %v: %v, state %s; want %v, %s", c.freshness, c.request.Headers, d.Reason, d.State, c.want, c.state)
		}
	}
}

// G-12: what is known must not be too old when the answer goes out either, however
// long the policy took.
func TestFreshnessAfterThePolicy(t *testing.T) {
	t.Parallel()
	for after, want := range map[time.Duration]policy.Reason{0: policy.ReasonAllowed, time.Second: policy.ReasonAllowed, 2 * time.Second: policy.ReasonUnavailable} {
		w := newWorld(t)
		w.cfg.Sight = func() check.Sight { return since(w.now) }
		w.decider.takes = func() { w.now = w.now.Add(after) }
		d := w.check(t, request("x-api-key", "key"))
		if d.Reason != want || d.Allowed != (want == policy.ReasonAllowed) || !d.Allowed && (d.Verdict != nil || len(d.Upstream) > 0) {
			t.Errorf("after %v: %+v", after, d)
		}
	}
}

// since is a sight that is fresh for a second.
type since time.Time

func (s since) Freshness(now time.Time) check.Freshness {
	if now.Sub(time.Time(s)) > time.Second {
		return check.Blind
	}
	return check.Fresh
}

// What a client sent and may not is removed once, however many reasons there are.
func TestRemovedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Reserved = []string{"x-original-url"}
	d := w.check(t, request("x-api-key", "key", "x-original-url", "/admin", "x_auth_tenant", "other"))
	names := slices.Sorted(slices.Values(d.Remove))
	if !d.Allowed || !slices.Contains(names, "x-original-url") || !slices.Contains(names, "x_auth_tenant") || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("%v: %q", d.Reason, d.Remove)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.proofs["key"].Principal.ID = "al\r\nice,%"
	d := w.check(t, request("x-api-key", "key", "x-auth-principal", "admin", "x_auth_tenant", "other", "x-auth-roles", "root"))
	if !d.Allowed {
		t.Fatal(d.Reason, d.Detail)
	}
	headers := map[string]string{}
	for _, h := range d.Upstream {
		headers[h.Name] = h.Value
	}
	if headers["x-auth-principal"] != "al%0D%0Aice,%25" || headers["x-auth-tenant"] != "acme" || headers["x-auth-decision"] != d.ID {
		t.Errorf("upstream %v", d.Upstream)
	}
	for name := range headers {
		if slices.Contains(d.Remove, name) {
			t.Errorf("%s is set and removed", name)
		}
	}
	for _, name := range []string{"x-api-key", "authorization", "x_auth_tenant", "x-auth-roles"} {
		if !slices.Contains(d.Remove, name) {
			t.Errorf("%s is not removed: %v", name, d.Remove)
		}
	}

	w.proofs["jwt"].Principal.Tenant = ""
	d = w.check(t, request("authorization", "Bearer jwt"))
	if !slices.Contains(d.Remove, "x-auth-tenant") {
		t.Errorf("a field that is not set is not removed: %v", d.Remove)
	}
	w.decider.verdict = &policy.Verdict{Allow: true, UpstreamHeaders: []policy.Header{{Name: "x-auth-principal", Value: "root"}, {Name: "x-team", Value: "a"}}}
	d = w.check(t, request("x-api-key", "key"))
	if n := len(d.Upstream); n != 4 || d.Upstream[3].Name != "x-team" {
		t.Errorf("a policy changed the identity: %v", d.Upstream)
	}
}

// What a caller says of its own clients is kept from the policy unless the
// configuration believes it.
func TestTrust(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Trust = map[string]check.Trust{"envoy": {SourcePrincipal: true, Extensions: true}}
	for caller, believed := range map[string]bool{"envoy": true, "": false, "other": false} {
		a := request("x-api-key", "key")
		a.Caller, a.Source.Principal, a.Extensions = caller, "spiffe://x/y", map[string]string{"tenant": "x"}
		w.check(t, a)
		seen := w.decider.input.Attributes
		if (seen.Source.Principal != "") != believed || (seen.Extensions != nil) != believed {
			t.Errorf("%q: %+v", caller, seen)
		}
	}
}

// A principal may be asked for without any policy: the answer says no more than
// that the credential is good.
func TestAuthenticate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ask := func(secret string) policy.Decision {
		return check.New(w.cfg).Authenticate(t.Context(), &policy.Attributes{Presented: &policy.Presented{Use: "api_key", Secret: policy.NewSecret(secret)}})
	}
	if d := ask("key"); !d.Allowed || d.Principal.ID != "alice" || w.decider.asked > 0 {
		t.Errorf("%+v", d)
	}
	want(t, ask("wrong"), policy.ReasonCredentialUnknown, policy.PhaseProve)
	w.proofs["key"].NotAfter = noon
	want(t, ask("key"), policy.ReasonExpired, policy.PhaseHold)
	d := check.New(w.cfg).Authenticate(t.Context(), &policy.Attributes{})
	want(t, d, policy.ReasonCredentialMissing, policy.PhaseFind)
}

func TestLive(t *testing.T) {
	t.Parallel()
	var live check.Live
	if d := live.Check(t.Context(), request()); d.Allowed || d.Reason != policy.ReasonNoPolicy || d.Status != 503 {
		t.Errorf("the zero Live answers %+v", d)
	}
	w := newWorld(t)
	live.Swap(check.New(w.cfg))
	if d := live.Check(t.Context(), request("x-api-key", "key")); !d.Allowed {
		t.Errorf("%+v", d)
	}
}

// The warm path of the conductor itself: the id, the decision header's slice.
func TestAllocations(t *testing.T) {
	w := newWorld(t)
	c := check.New(w.cfg)
	a := request("x-api-key", "key", "user-agent", "test")
	c.Check(t.Context(), a)
	if n := testing.AllocsPerRun(200, func() { c.Check(context.Background(), a) }); n > 3 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	w := newWorld(&testing.T{})
	c := check.New(w.cfg)
	a := request("x-api-key", "key", "user-agent", "test", "accept", "*/*")
	b.ReportAllocs()
	for b.Loop() {
		c.Check(b.Context(), a)
	}
}
