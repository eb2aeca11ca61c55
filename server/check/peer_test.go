package check_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/check"
)

// mesh proves the peer that the x-forwarded-client-cert field names, or the one of the
// connection, as far as the caller is believed.
type mesh struct{}

func (mesh) Peer(a *policy.Attributes, t check.Trust) (*authn.Proof, error) {
	name, n := a.Headers.Get("x-forwarded-client-cert")
	switch {
	case t.OwnCertificate && a.RequestID == "own":
		name = "spiffe://prod/own"
	case t.OwnCertificate && a.RequestID == "foreign":
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, "")
	case n == 0:
		return nil, authn.ErrNotMine
	case name == "bad":
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, "")
	case name == "down":
		return nil, errors.New("no bundle")
	}
	p := proof(name, policy.MethodMTLS)
	p.Principal.Kind, p.Principal.Assurance = policy.KindService, 4
	p.Peer = &policy.Peer{ID: name, TrustDomain: "prod", Fingerprint: "f-" + name}
	p.Subject = authn.Subject{Fingerprint: "f-" + name}
	return p, nil
}

const web, job = "spiffe://prod/web", "spiffe://prod/job"

// meshed is a world with a gateway that forwards certificates and one that does not.
func meshed(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.cfg.Peers = mesh{}
	w.cfg.Trust = map[string]check.Trust{"edge": {XFCC: true}}
	return w
}

func from(caller string, fields ...string) *policy.Attributes {
	a := request(fields...)
	a.Caller = caller
	return a
}

// C-03: a certificate alone is enough where nothing else is there. C-01: one that the
// gateway is not believed to forward is none, and never reaches the upstream.
func TestPeer(t *testing.T) {
	t.Parallel()
	w := meshed(t)
	d := w.check(t, from("edge", "x-forwarded-client-cert", web))
	if want(t, d, policy.ReasonAllowed, policy.PhaseRecord); d.Principal == nil || d.Principal.ID != web || d.Peer == nil || d.Peer.ID != web {
		t.Errorf("%+v", d)
	}
	if w.decider.input.Peer == nil || w.decider.input.Peer.ID != web {
		t.Errorf("the policy sees %v", w.decider.input.Peer)
	}
	want(t, w.check(t, from("other", "x-forwarded-client-cert", web)), policy.ReasonCredentialMissing, policy.PhaseFind)
	want(t, w.check(t, request("x-forwarded-client-cert", web)), policy.ReasonCredentialMissing, policy.PhaseFind)
	want(t, w.check(t, from("edge", "x-forwarded-client-cert", "bad")), policy.ReasonSignatureInvalid, policy.PhaseProve)
	want(t, w.check(t, from("edge", "x-forwarded-client-cert", "bad", "x-api-key", "key")), policy.ReasonSignatureInvalid, policy.PhaseProve)
	want(t, w.check(t, from("edge", "x-forwarded-client-cert", "down")), policy.ReasonUnavailable, policy.PhaseProve)

	// Another credential says who is calling; the peer is who it came from.
	d = w.check(t, from("edge", "x-forwarded-client-cert", web, "x-api-key", "key"))
	if want(t, d, policy.ReasonAllowed, policy.PhaseRecord); d.Principal.ID != "alice" || d.Peer == nil || d.Peer.ID != web {
		t.Errorf("%+v", d)
	}
	d = w.check(t, from("other", "x-forwarded-client-cert", web, "x-api-key", "key"))
	if want(t, d, policy.ReasonAllowed, policy.PhaseRecord); d.Peer != nil || !slices.Contains(d.Remove, "x-forwarded-client-cert") {
		t.Errorf("a forged certificate: %v, removed %v", d.Peer, d.Remove)
	}
	if _, n := w.decider.input.Attributes.Headers.Get("x-forwarded-client-cert"); n != 0 {
		t.Error("the policy sees the forged certificate")
	}
	if _, n := policy.Headers(d.Upstream).Get("x-forwarded-client-cert"); n != 0 {
		t.Error("the upstream sees it")
	}
}

// C-04: a revoked certificate ends the check, whoever the principal is.
func TestRevokedPeer(t *testing.T) {
	t.Parallel()
	w := meshed(t)
	w.cfg.Revocations = revokedFingerprint("f-" + web)
	for _, fields := range [][]string{{}, {"x-api-key", "key"}} {
		d := w.check(t, from("edge", append(fields, "x-forwarded-client-cert", web)...))
		want(t, d, policy.ReasonRevoked, policy.PhaseHold)
		want(t, w.check(t, from("edge", append(fields, "x-forwarded-client-cert", job)...)), policy.ReasonAllowed, policy.PhaseRecord)
	}
}

type revokedFingerprint string

func (f revokedFingerprint) Revoked(s *authn.Subject) (policy.Reason, bool) {
	return policy.ReasonRevoked, s.Fingerprint == string(f)
}

// The certificate of the connection is the client's only where the caller asks for
// itself; whoever asks Postern itself for something always does.
func TestOwnCertificate(t *testing.T) {
	t.Parallel()
	w := meshed(t)
	own := func(caller string) *policy.Attributes {
		a := from(caller)
		a.RequestID = "own"
		return a
	}
	want(t, w.check(t, own("edge")), policy.ReasonCredentialMissing, policy.PhaseFind)
	w.cfg.Trust["service"] = check.Trust{OwnCertificate: true}
	if d := w.check(t, own("service")); !d.Allowed || d.Principal.ID != "spiffe://prod/own" {
		t.Errorf("%+v", d)
	}
	c := check.New(w.cfg)
	if d := c.Authenticate(t.Context(), own("edge")); d.Allowed {
		t.Errorf("the gateway's own certificate is taken for its client's: %+v", d)
	}
	if d, _ := c.Identify(t.Context(), own("")); !d.Allowed || d.Principal.ID != "spiffe://prod/own" {
		t.Errorf("%+v", d)
	}
	odd := own("")
	odd.RequestID = "foreign"
	if d, _ := c.Identify(t.Context(), odd); d.Allowed {
		t.Errorf("a certificate of others names its holder: %+v", d)
	}
	odd.Headers = policy.Headers{{Name: "x-api-key", Value: "key"}}
	if d, _ := c.Identify(t.Context(), odd); !d.Allowed || d.Peer != nil || d.Principal.ID != "alice" {
		t.Errorf("%+v", d)
	}
	if d, _ := c.Identify(t.Context(), from("edge", "x-forwarded-client-cert", web)); d.Allowed {
		t.Errorf("a forwarded certificate counts where nothing is forwarded: %+v", d)
	}
}

// A route that does not take certificates asks for a credential; one that lets
// everybody on still does not take the connection for a name.
func TestRouteWithoutMTLS(t *testing.T) {
	t.Parallel()
	w := meshed(t)
	peer := from("edge", "x-forwarded-client-cert", web)
	w.cfg.Routes = route(func(r *policy.Route) { r.AnyOf = []policy.Method{"api_key"} })
	want(t, w.check(t, peer), policy.ReasonCredentialMissing, policy.PhaseProve)
	w.cfg.Routes[0].Anonymous = true
	if d := w.check(t, peer); !d.Allowed || d.Principal.Kind != policy.KindAnonymous {
		t.Errorf("%+v", d.Principal)
	}
	w.cfg.Routes = route(func(r *policy.Route) { r.Anonymous, r.Kinds = true, nil })
	if d := w.check(t, peer); !d.Allowed || d.Principal.ID != web {
		t.Errorf("%+v", d.Principal)
	}
}

// a certificate and a key together, the key bound to one certificate.
func TestCertificateAndKey(t *testing.T) {
	t.Parallel()
	w := meshed(t)
	w.cfg.Routes = route(func(r *policy.Route) { r.AllOf = []policy.Method{"api_key", policy.MethodMTLS} })
	d := w.check(t, from("edge", "x-forwarded-client-cert", web, "x-api-key", "key"))
	if want(t, d, policy.ReasonAllowed, policy.PhaseRecord); d.Principal.ID != "alice" {
		t.Errorf("%+v", d.Principal)
	}
	want(t, w.check(t, from("edge", "x-forwarded-client-cert", web)), policy.ReasonCredentialMissing, policy.PhaseProve)
	want(t, w.check(t, from("edge", "x-api-key", "key")), policy.ReasonCredentialMissing, policy.PhaseProve)
	want(t, w.check(t, from("other", "x-api-key", "key", "x-forwarded-client-cert", web)), policy.ReasonCredentialMissing, policy.PhaseProve)
	want(t, w.check(t, from("edge", "x-forwarded-client-cert", web, "authorization", "Bearer jwt")), policy.ReasonMethodNotAccepted, policy.PhaseProve)
	want(t, w.check(t, from("edge", "x-forwarded-client-cert", web, "x-api-key", "unknown")), policy.ReasonCredentialUnknown, policy.PhaseProve)

	w.proofs["key"].Constraints = &policy.Constraints{Peers: []string{web}}
	want(t, w.check(t, from("edge", "x-forwarded-client-cert", web, "x-api-key", "key")), policy.ReasonAllowed, policy.PhaseRecord)
	want(t, w.check(t, from("edge", "x-forwarded-client-cert", job, "x-api-key", "key")), policy.ReasonBinding, policy.PhaseHold)
	w.cfg.Routes = nil
	want(t, w.check(t, request("x-api-key", "key")), policy.ReasonBinding, policy.PhaseHold)

	// Listed first, the certificate is the principal.
	w.cfg.Routes = route(func(r *policy.Route) { r.AllOf = []policy.Method{policy.MethodMTLS, "api_key"} })
	if d := w.check(t, from("edge", "x-forwarded-client-cert", web, "x-api-key", "key")); !d.Allowed || d.Principal.ID != web {
		t.Errorf("%v: %+v", d.Reason, d.Principal)
	}
}

// C-06: a token that is bound to a certificate is of no use with another (RFC 8705).
func TestCertificateBound(t *testing.T) {
	t.Parallel()
	w := meshed(t)
	w.proofs["jwt"].Confirm.Certificate = "f-" + web
	bearer := []string{"authorization", "Bearer jwt"}
	want(t, w.check(t, from("edge", append(bearer, "x-forwarded-client-cert", web)...)), policy.ReasonAllowed, policy.PhaseRecord)
	for _, d := range []policy.Decision{
		w.check(t, from("edge", append(bearer, "x-forwarded-client-cert", job)...)),
		w.check(t, from("other", append(bearer, "x-forwarded-client-cert", web)...)),
		w.check(t, from("edge", bearer...)),
	} {
		want(t, d, policy.ReasonBinding, policy.PhaseProve)
	}
	w.cfg.Peers = nil
	want(t, w.check(t, from("edge", append(bearer, "x-forwarded-client-cert", web)...)), policy.ReasonBinding, policy.PhaseProve)
	if d := check.New(w.cfg).Authenticate(t.Context(), from("edge", bearer...)); d.Allowed {
		t.Error("Authenticate takes a bound token without what it is bound to")
	}
}

// holders takes the proof "good" of a request whose other parts are as they should be.
type holders struct{ last authn.Possession }

func (h *holders) Verify(p *authn.Possession) error {
	h.last = *p
	switch p.Proof {
	case "good":
		return nil
	case "full":
		return errors.New("the replay cache is full")
	}
	return authn.Refuse(policy.ReasonBinding, "")
}

func (h *holders) Challenge(err error) (parameters, nonce string) {
	if err != nil {
		return `, algs="ES256", error="invalid_dpop_proof"`, "n1"
	}
	return `, algs="ES256"`, ""
}

// RFC 9449 section 7: a token that is bound to a key comes as DPoP with a proof, and
// no other token does.
func TestDPoP(t *testing.T) {
	t.Parallel()
	w, h := newWorld(t), &holders{}
	w.cfg.Rules = append(w.cfg.Rules, rule(t, "header:authorization/dpop", "jwt"))
	w.cfg.Extractor, w.cfg.Possessions = authn.NewExtractor(w.cfg.Rules), h
	w.proofs["bound"] = proof("alice", "jwt")
	w.proofs["bound"].Confirm.Key = "jkt"

	a := request("authorization", "DPoP bound", "dpop", "good")
	a.Path, a.Method = "/things/%41?x=1", "POST"
	d := w.check(t, a)
	want(t, d, policy.ReasonAllowed, policy.PhaseRecord)
	if l := h.last; l.Method != "POST" || l.Scheme != "https" || l.Host != "api.test" || l.Path != "/things/%41" || l.Token.Reveal() != "bound" || l.Key != "jkt" {
		t.Errorf("%+v", l)
	}
	if !slices.Contains(d.Remove, "dpop") || !slices.Contains(d.Remove, "authorization") {
		t.Errorf("the upstream sees the proof: %v", d.Remove)
	}
	for name, fields := range map[string][]string{
		"no proof":  {"authorization", "DPoP bound"},
		"bad proof": {"authorization", "DPoP bound", "dpop", "bad"},
		"as bearer": {"authorization", "Bearer bound", "dpop", "good"},
		"not bound": {"authorization", "DPoP jwt", "dpop", "good"},
	} {
		code, nonces := "invalid_token", 0
		if name == "bad proof" {
			code, nonces = "invalid_dpop_proof", 1
		}
		d := w.check(t, request(fields...))
		want(t, d, policy.ReasonBinding, policy.PhaseProve)
		challenge := strings.Join(d.Challenges, "\n")
		if !strings.Contains(challenge, `DPoP realm="test", algs="ES256", error="`+code+`"`) || strings.Count(challenge, "DPoP") != 1 {
			t.Errorf("%s: %s", name, challenge)
		}
		if _, n := policy.Headers(d.Client).Get("dpop-nonce"); n != nonces {
			t.Errorf("%s: %v", name, d.Client)
		}
	}
	want(t, w.check(t, request("authorization", "DPoP bound", "dpop", "full")), policy.ReasonUnavailable, policy.PhaseProve)
	w.cfg.Possessions = nil
	want(t, w.check(t, request("authorization", "DPoP bound", "dpop", "good")), policy.ReasonBinding, policy.PhaseProve)
}

// G-07: a zone is an address or a trust domain. A route takes requests of its zones
// only, and a zone that a client makes up does not exist.
func TestZones(t *testing.T) {
	t.Parallel()
	w := meshed(t)
	w.cfg.Zones = []check.Zone{
		{Name: "office", CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		{Name: "mesh", TrustDomains: []string{"prod"}},
	}
	w.cfg.Routes = route(func(r *policy.Route) {
		r.Zones, r.AnyOf = []string{"mesh"}, []policy.Method{policy.MethodMTLS, "api_key"}
	})
	at := func(ip string, a *policy.Attributes) *policy.Attributes {
		a.Source.Address = netip.AddrPortFrom(netip.MustParseAddr(ip), 1)
		return a
	}
	var zones []string
	w.decider.takes = func() { zones = slices.Clone(w.decider.input.Request.Zones) }
	want(t, w.check(t, at("192.0.2.1", from("edge", "x-forwarded-client-cert", web))), policy.ReasonAllowed, policy.PhaseRecord)
	if !slices.Equal(zones, []string{"office", "mesh"}) {
		t.Errorf("the policy sees %v", zones)
	}
	want(t, w.check(t, at("192.0.2.1", from("other", "x-forwarded-client-cert", web))), policy.ReasonCredentialMissing, policy.PhaseFind)
	want(t, w.check(t, at("192.0.2.1", from("edge", "x-api-key", "key"))), policy.ReasonNetwork, policy.PhaseHold)
	want(t, w.check(t, at("192.0.2.1", from("other", "x-api-key", "key", "x-forwarded-client-cert", web))), policy.ReasonNetwork, policy.PhaseHold)

	w.cfg.Routes = route(func(r *policy.Route) { r.Zones, r.Anonymous = []string{"office"}, true })
	want(t, w.check(t, at("192.0.2.1", request())), policy.ReasonAllowed, policy.PhaseRecord)
	want(t, w.check(t, at("198.51.100.1", request())), policy.ReasonNetwork, policy.PhaseHold)
	want(t, w.check(t, at("198.51.100.1", request("x-forwarded-for", "192.0.2.1"))), policy.ReasonNetwork, policy.PhaseHold)
	want(t, w.check(t, request()), policy.ReasonNetwork, policy.PhaseHold)
	// A tenant's own rules hold in every zone.
	w.cfg.Routes = route(func(r *policy.Route) { r.Zones, r.Tenant = []string{"office"}, "globex" })
	want(t, w.check(t, at("192.0.2.1", request("x-api-key", "key"))), policy.ReasonTenant, policy.PhaseHold)
}

// B-03: outside of its zones a method is not even tried.
func TestMethodZones(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Rules = append(w.cfg.Rules, rule(t, "header:authorization/basic", policy.MethodBasic))
	w.cfg.Extractor = authn.NewExtractor(w.cfg.Rules)
	w.cfg.Zones = []check.Zone{{Name: "office", CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
	w.cfg.MethodZones = map[policy.Method][]string{policy.MethodBasic: {"office"}}
	w.cfg.Authenticator = authn.Chain{{Method: policy.MethodBasic, Authenticator: w}}
	w.proofs["password"] = proof("alice", policy.MethodBasic)
	a := request("authorization", "Basic YWxpY2U6cGFzc3dvcmQ=")
	want(t, w.check(t, a), policy.ReasonCredentialUnknown, policy.PhaseProve)
	a.Source.Address = netip.MustParseAddrPort("192.0.2.7:1")
	want(t, w.check(t, a), policy.ReasonAllowed, policy.PhaseRecord)
}

// G-04: a stronger authentication is asked for as RFC 9470 has it.
func TestStepUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Routes = route(func(r *policy.Route) { r.AMR, r.ACR = []string{"otp"}, []string{"urn:gold", "urn:silver"} })
	ask := func(acr string, age time.Duration, amr ...string) policy.Decision {
		p := proof("alice", "jwt")
		p.Principal.ACR, p.Principal.AMR, p.Principal.AuthTime = acr, amr, noon.Add(-age)
		w.proofs["jwt"] = p
		return w.check(t, request("authorization", "Bearer jwt"))
	}
	want(t, ask("urn:silver", 0, "pwd", "otp"), policy.ReasonAllowed, policy.PhaseRecord)
	d := ask("urn:gold", 0, "pwd")
	want(t, d, policy.ReasonStepUp, policy.PhaseHold)
	if want := `Bearer realm="test", error="insufficient_user_authentication", error_description="A stronger or more recent authentication is required.", acr_values="urn:gold urn:silver"`; d.Challenges[0] != want {
		t.Errorf("%s", d.Challenges[0])
	}
	want(t, ask("", 0, "pwd", "otp"), policy.ReasonStepUp, policy.PhaseHold)
	want(t, ask("urn:gold", 0), policy.ReasonStepUp, policy.PhaseHold)
	w.cfg.Routes = route(func(r *policy.Route) { r.AMR, r.MaxAge = []string{"otp", "pwd"}, time.Minute })
	if d := ask("", 0, "pwd"); d.Reason != policy.ReasonStepUp || !strings.HasSuffix(d.Challenges[0], `, acr_values="otp pwd", max_age="60"`) {
		t.Errorf("%v: %v", d.Reason, d.Challenges)
	}
	want(t, ask("", time.Hour, "otp", "pwd"), policy.ReasonStepUp, policy.PhaseHold)
	want(t, ask("", time.Second, "otp", "pwd"), policy.ReasonAllowed, policy.PhaseRecord)
}

// A route asks for TLS of everybody, also of those without a credential.
func TestRequireTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Routes = route(func(r *policy.Route) { r.RequireTLS, r.Anonymous = true, true })
	want(t, w.check(t, request()), policy.ReasonAllowed, policy.PhaseRecord)
	for _, scheme := range []string{"http", ""} {
		a := request()
		a.Scheme = scheme
		want(t, w.check(t, a), policy.ReasonPlaintext, policy.PhaseHold)
	}
}

// One challenge for each method that the route takes, with the metadata of the
// resource (RFC 9728 section 5.1), and none of another.
func TestChallengesOfTheRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Rules = append(w.cfg.Rules, rule(t, "header:authorization/basic", policy.MethodBasic), rule(t, "cookie:s", policy.MethodSession), rule(t, "header:authorization/apikey", "api_key"))
	w.cfg.Extractor, w.cfg.ResourceMetadata = authn.NewExtractor(w.cfg.Rules), "https://api.test/.well-known/oauth-protected-resource"
	bearer, key, basic := `Bearer realm="test"`, `ApiKey realm="test"`, `Basic realm="test", charset="UTF-8"`
	metadata := `, resource_metadata="https://m.test/"`
	for name, tt := range map[string]struct {
		change func(*policy.Route)
		want   []string
	}{
		"all":      {func(*policy.Route) {}, []string{bearer, key, basic}},
		"key":      {func(r *policy.Route) { r.AnyOf = []policy.Method{"api_key"} }, []string{key}},
		"jwt":      {func(r *policy.Route) { r.AnyOf = []policy.Method{"jwt"} }, []string{bearer}},
		"two":      {func(r *policy.Route) { r.AnyOf = []policy.Method{"jwt", "basic"} }, []string{bearer, basic}},
		"both":     {func(r *policy.Route) { r.AllOf = []policy.Method{"jwt", "api_key"} }, []string{bearer, key}},
		"session":  {func(r *policy.Route) { r.AnyOf = []policy.Method{"session"} }, []string{bearer}},
		"metadata": {func(r *policy.Route) { r.AnyOf, r.ResourceMetadata = []policy.Method{"jwt"}, "https://m.test/" }, []string{bearer + metadata}},
		"scopes":   {func(r *policy.Route) { r.AnyOf, r.Scopes = []policy.Method{"jwt"}, []string{"a", "b"} }, []string{bearer + `, scope="a b"`}},
	} {
		w.cfg.Routes = route(tt.change)
		if d := w.check(t, request()); d.Reason != policy.ReasonCredentialMissing || !slices.Equal(d.Challenges, tt.want) {
			t.Errorf("%s: %v: %q, want %q", name, d.Reason, d.Challenges, tt.want)
		}
	}
	w.cfg.Routes = nil
	if d := w.check(t, request()); !strings.Contains(d.Challenges[0], `resource_metadata="https://api.test/.well-known/oauth-protected-resource"`) {
		t.Errorf("%q", d.Challenges)
	}
}

// a session and a JWT together, an OAuth token and a JWT together.
func TestTwoTokens(t *testing.T) {
	t.Parallel()
	w := browser(t)
	w.cfg.Rules = append(w.cfg.Rules, rule(t, "header:x-access-token", policy.MethodOAuth))
	w.cfg.Extractor = authn.NewExtractor(w.cfg.Rules)
	w.proofs["oauth"] = proof("alice", policy.MethodOAuth)
	w.proofs["other"] = proof("bob", policy.MethodOAuth)
	w.proofs["other"].Principal.Tenant = "globex"
	session, jwt, oauth := []string{"cookie", "__Host-session=s1"}, []string{"authorization", "Bearer jwt"}, []string{"x-access-token", "oauth"}
	for name, tt := range map[string]struct {
		all    []policy.Method
		fields []string
		reason policy.Reason
	}{
		"session and JWT":         {[]policy.Method{"session", "jwt"}, slices.Concat(session, jwt), policy.ReasonAllowed},
		"the session alone":       {[]policy.Method{"session", "jwt"}, session, policy.ReasonCredentialMissing},
		"the JWT alone":           {[]policy.Method{"session", "jwt"}, jwt, policy.ReasonCredentialMissing},
		"session and bad JWT":     {[]policy.Method{"session", "jwt"}, append([]string{"authorization", "Bearer bad"}, session...), policy.ReasonCredentialUnknown},
		"OAuth and JWT":           {[]policy.Method{policy.MethodOAuth, "jwt"}, slices.Concat(oauth, jwt), policy.ReasonAllowed},
		"OAuth and JWT of others": {[]policy.Method{policy.MethodOAuth, "jwt"}, append([]string{"x-access-token", "other"}, jwt...), policy.ReasonTenant},
		"the OAuth token alone":   {[]policy.Method{policy.MethodOAuth, "jwt"}, oauth, policy.ReasonCredentialMissing},
		"three":                   {[]policy.Method{policy.MethodOAuth, "jwt"}, slices.Concat(oauth, jwt, session), policy.ReasonCredentialAmbiguous},
	} {
		w.cfg.Routes = route(func(r *policy.Route) { r.AllOf = tt.all })
		if d := w.check(t, request(tt.fields...)); d.Reason != tt.reason {
			t.Errorf("%s: %v, want %v; %s", name, d.Reason, tt.reason, d.Detail)
		}
	}
}

// The certificate is none of the credentials that a route counts: beside it there are as
// many as all_of names others, or a second token could hide behind it.
func TestNothingHidesBehindTheCertificate(t *testing.T) {
	t.Parallel()
	w := meshed(t)
	w.proofs["other"] = proof("mallory", "jwt")
	jwt, other, key := []string{"authorization", "Bearer jwt"}, []string{"x-api-key", "other"}, []string{"x-api-key", "key"}
	for name, tt := range map[string]struct {
		all    []policy.Method
		fields []string
		reason policy.Reason
	}{
		"JWT":                     {[]policy.Method{"jwt", policy.MethodMTLS}, jwt, policy.ReasonAllowed},
		"JWT and another JWT":     {[]policy.Method{"jwt", policy.MethodMTLS}, slices.Concat(jwt, other), policy.ReasonCredentialAmbiguous},
		"JWT and a key":           {[]policy.Method{"jwt", policy.MethodMTLS}, slices.Concat(jwt, key), policy.ReasonCredentialAmbiguous},
		"both are asked for":      {[]policy.Method{"jwt", policy.MethodMTLS, "api_key"}, slices.Concat(jwt, key), policy.ReasonAllowed},
		"the certificate alone":   {[]policy.Method{policy.MethodMTLS}, nil, policy.ReasonAllowed},
		"a JWT beside it for one": {[]policy.Method{policy.MethodMTLS}, jwt, policy.ReasonCredentialAmbiguous},
	} {
		w.cfg.Routes = route(func(r *policy.Route) { r.AllOf = tt.all })
		if d := w.check(t, from("edge", append(tt.fields, "x-forwarded-client-cert", web)...)); d.Reason != tt.reason {
			t.Errorf("%s: %v, want %v; %s", name, d.Reason, tt.reason, d.Detail)
		}
	}
}
