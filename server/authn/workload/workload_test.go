package workload_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	golangjwt "github.com/golang-jwt/jwt/v5"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/authn/workload"
	"github.com/postern-auth/postern/server/jose"
)

// start is the time at which all these tests begin.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	web   = "spiffe://prod.example.com/ns/shop/sa/web"
	agent = "planner"
)

// signer signs as somebody.
type signer struct {
	kid, alg string
	private  crypto.Signer
}

func newSigner(t testing.TB, kid, alg string) *signer {
	t.Helper()
	s := &signer{kid: kid, alg: alg}
	var err error
	switch {
	case alg == "EdDSA":
		_, s.private, err = ed25519.GenerateKey(rand.Reader)
	case strings.HasPrefix(alg, "ES"):
		s.private, err = ecdsa.GenerateKey(map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg], rand.Reader)
	default:
		s.private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *signer) keys(t testing.TB) *jose.KeySet {
	t.Helper()
	set, err := jose.NewKeySet(&jose.Key{ID: s.kid, Public: s.private.Public()})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (s *signer) sign(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	h := with(map[string]any{"alg": s.alg, "kid": s.kid}, header)
	return s.signText(t, text(t, h), text(t, claims))
}

func (s *signer) signText(t testing.TB, header, payload string) string {
	t.Helper()
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	signature, err := golangjwt.GetSigningMethod(s.alg).Sign(signed, s.private)
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func text(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// with returns a copy with some members set; nil removes one.
func with(m, changes map[string]any) map[string]any {
	m = maps.Clone(m)
	maps.Copy(m, changes)
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return m
}

// world is a trust domain, two clients, and the time.
type world struct {
	domain, client, shared *signer
	keys                   map[string]jose.Keys
	now                    time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{domain: newSigner(t, "d-1", "ES256"), client: newSigner(t, "c-1", "EdDSA"), shared: newSigner(t, "s-1", "ES256"), now: start}
	w.keys = map[string]jose.Keys{"spiffe://prod.example.com": w.domain.keys(t), agent: w.client.keys(t), "batch": w.shared.keys(t)}
	return w
}

func config() workload.Config {
	c := workload.Config{
		Audiences: []string{"orders", "https://orders.example.com"},
		TrustDomains: []workload.TrustDomain{{
			Name: "prod.example.com", BundleFile: "bundle.json", Tenant: "acme", Constraints: &policy.Constraints{RequireTLS: true},
		}},
		Clients: []workload.Client{
			{ID: agent, JWKSFile: "planner.json", Kind: policy.KindAgent, Tenant: "acme", Roles: []string{"reader"}, Permissions: []string{"orders.read"}, Scopes: []string{"read", "write"}, Metadata: map[string]any{"team": "x"}},
			{ID: "batch", JWKSFile: "batch.json", Reusable: true},
		},
	}
	c.SetDefaults()
	return c
}

func (w *world) authenticator(t testing.TB, change func(*workload.Config, *workload.Deps)) *workload.Authenticator {
	t.Helper()
	cfg, deps := config(), workload.Deps{Keys: w.keys, Now: func() time.Time { return w.now }}
	if change != nil {
		change(&cfg, &deps)
	}
	a, err := workload.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// svid is a JWT-SVID as SPIRE makes it, with some claims replaced.
func (w *world) svid(t testing.TB, changes map[string]any) string {
	t.Helper()
	return w.domain.sign(t, map[string]any{"typ": "JWT"}, with(w.svidClaims(), changes))
}

func (w *world) svidClaims() map[string]any {
	return map[string]any{"sub": web, "aud": []string{"orders"}, "iat": w.now.Unix(), "exp": w.now.Add(5 * time.Minute).Unix()}
}

var serial atomic.Int64

func (w *world) claims(id string) map[string]any {
	return map[string]any{
		"iss": id, "sub": id, "aud": "orders", "jti": fmt.Sprintf("t-%d", serial.Add(1)),
		"iat": w.now.Unix(), "exp": w.now.Add(time.Minute).Unix(),
	}
}

// token is one that the agent signed for itself.
func (w *world) token(t testing.TB, changes map[string]any) string {
	t.Helper()
	return w.client.sign(t, nil, with(w.claims(agent), changes))
}

// batch is one of the client whose tokens may be used again.
func (w *world) batch(t testing.TB, changes map[string]any) string {
	t.Helper()
	return w.shared.sign(t, nil, with(w.claims("batch"), changes))
}

func authenticate(a authn.Authenticator, token string) (*authn.Proof, error) {
	return a.Authenticate(context.Background(), &authn.Credential{Secret: policy.NewSecret(token)})
}

// reason is that of a refusal, or one that no refusal has.
func reason(err error) policy.Reason {
	var refusal *authn.Refusal
	switch {
	case err == nil:
		return policy.ReasonAllowed
	case errors.As(err, &refusal):
		return refusal.Reason
	case errors.Is(err, authn.ErrNotMine):
		return policy.ReasonUnspecified
	}
	return policy.ReasonUnavailable
}

func mustProve(t testing.TB, a authn.Authenticator, token string) *authn.Proof {
	t.Helper()
	proof, err := authenticate(a, token)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// The principal of a JWT-SVID is its SPIFFE id.
func TestSVIDPrincipal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proof := mustProve(t, w.authenticator(t, nil), w.svid(t, map[string]any{"jti": "j-1", "roles": []string{"admin"}, "scope": "admin"}))
	want := &policy.Principal{
		ID: web, Kind: policy.KindService, Tenant: "acme", Method: policy.MethodSVID, Assurance: 3,
		CredentialID: "j-1", Issuer: "spiffe://prod.example.com", IssuedAt: start, ExpiresAt: start.Add(5 * time.Minute),
	}
	if !reflect.DeepEqual(proof.Principal, want) {
		t.Errorf("got  %+v\nwant %+v", proof.Principal, want)
	}
	subject := authn.Subject{TokenID: "j-1", KeyID: "d-1", Issuer: "spiffe://prod.example.com", ID: web, Tenant: "acme", IssuedAt: start}
	if proof.Subject != subject || !proof.NotAfter.Equal(start.Add(5*time.Minute+30*time.Second)) || proof.State != policy.StateNone || !proof.Constraints.RequireTLS {
		t.Errorf("got %+v, until %s", proof.Subject, proof.NotAfter)
	}
}

// what a registered agent holds is what the configuration says.
func TestClientPrincipal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proof := mustProve(t, w.authenticator(t, nil), w.token(t, map[string]any{"jti": "j-1", "roles": []string{"admin"}, "tenant": "other"}))
	want := &policy.Principal{
		ID: agent, Kind: policy.KindAgent, Tenant: "acme", Roles: []string{"reader"}, Permissions: []string{"orders.read"}, Scopes: []string{"read", "write"},
		Metadata: map[string]any{"team": "x"}, Method: policy.MethodWorkload, Assurance: 3,
		CredentialID: "j-1", Issuer: agent, IssuedAt: start, ExpiresAt: start.Add(time.Minute),
	}
	if !reflect.DeepEqual(proof.Principal, want) {
		t.Errorf("got  %+v\nwant %+v", proof.Principal, want)
	}
	subject := authn.Subject{TokenID: "j-1", KeyID: "c-1", Issuer: agent, ID: agent, Client: agent, Agent: agent, Tenant: "acme", IssuedAt: start}
	if proof.Subject != subject || !proof.NotAfter.Equal(start.Add(90*time.Second)) {
		t.Errorf("got %+v, until %s", proof.Subject, proof.NotAfter)
	}
}

// a token may ask for less than its client holds, and never for more.
func TestScopesNarrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	for scope, want := range map[string][]string{"read": {"read"}, "": {}, "write read": {"write", "read"}} {
		if got := mustProve(t, a, w.token(t, map[string]any{"scope": scope})).Principal.Scopes; !slices.Equal(got, want) {
			t.Errorf("%q: %q", scope, got)
		}
	}
	for _, scope := range []any{"admin", "read admin", "Read", []string{"read"}, 1, json.RawMessage("null")} {
		if _, err := authenticate(a, w.token(t, map[string]any{"scope": scope})); reason(err) != policy.ReasonInvalidClaim {
			t.Errorf("%v: %v", scope, err)
		}
	}
}

// JWT-SVID sections 2 to 4: each thing that can be wrong with one.
func TestSVIDRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	unix := func(d time.Duration) int64 { return start.Add(d).Unix() }
	refusals(t, a, w.domain, w.svidClaims, map[string]change{
		"good":                       {nil, nil, policy.ReasonAllowed},
		"typ JWT":                    {map[string]any{"typ": "JWT"}, nil, policy.ReasonAllowed},
		"typ JOSE":                   {map[string]any{"typ": "JOSE"}, nil, policy.ReasonAllowed},
		"typ in another case":        {map[string]any{"typ": "jwt"}, nil, policy.ReasonWrongTokenType},
		"typ at+jwt":                 {map[string]any{"typ": "at+jwt"}, nil, policy.ReasonWrongTokenType},
		"no kid":                     {map[string]any{"kid": nil}, nil, policy.ReasonSignatureInvalid},
		"another kid":                {map[string]any{"kid": "d-2"}, nil, policy.ReasonSignatureInvalid},
		"another parameter":          {map[string]any{"x5t": "x"}, nil, policy.ReasonCredentialMalformed},
		"a jwk":                      {map[string]any{"jwk": map[string]any{}}, nil, policy.ReasonCredentialMalformed},
		"alg EdDSA":                  {map[string]any{"alg": "EdDSA"}, nil, policy.ReasonSignatureInvalid},
		"alg HS256":                  {map[string]any{"alg": "HS256"}, nil, policy.ReasonSignatureInvalid},
		"alg of another key":         {map[string]any{"alg": "RS256"}, nil, policy.ReasonSignatureInvalid},
		"no aud":                     {nil, map[string]any{"aud": nil}, policy.ReasonInvalidAudience},
		"aud empty":                  {nil, map[string]any{"aud": []string{}}, policy.ReasonInvalidAudience},
		"aud of another service":     {nil, map[string]any{"aud": []string{"billing"}}, policy.ReasonInvalidAudience},
		"aud of several":             {nil, map[string]any{"aud": []string{"billing", "orders"}}, policy.ReasonAllowed},
		"aud as text":                {nil, map[string]any{"aud": "https://orders.example.com"}, policy.ReasonAllowed},
		"no exp":                     {nil, map[string]any{"exp": nil}, policy.ReasonInvalidClaim},
		"exp is text":                {nil, map[string]any{"exp": "1772366400"}, policy.ReasonInvalidClaim},
		"expired":                    {nil, map[string]any{"iat": nil, "exp": unix(-30 * time.Second)}, policy.ReasonExpired},
		"expired within the skew":    {nil, map[string]any{"iat": nil, "exp": unix(-29 * time.Second)}, policy.ReasonAllowed},
		"no iat":                     {nil, map[string]any{"iat": nil}, policy.ReasonAllowed},
		"of the future":              {nil, map[string]any{"iat": unix(31 * time.Second)}, policy.ReasonNotYetValid},
		"not yet":                    {nil, map[string]any{"nbf": unix(31 * time.Second)}, policy.ReasonNotYetValid},
		"as long as can be":          {nil, map[string]any{"exp": unix(time.Hour)}, policy.ReasonAllowed},
		"too long":                   {nil, map[string]any{"exp": unix(time.Hour + time.Second)}, policy.ReasonLifetimeExceeded},
		"too long, without iat":      {nil, map[string]any{"iat": nil, "exp": unix(time.Hour + time.Second)}, policy.ReasonLifetimeExceeded},
		"the trust domain itself":    {nil, map[string]any{"sub": "spiffe://prod.example.com"}, policy.ReasonInvalidClaim},
		"with an empty path":         {nil, map[string]any{"sub": "spiffe://prod.example.com/"}, policy.ReasonInvalidClaim},
		"with a slash at the end":    {nil, map[string]any{"sub": web + "/"}, policy.ReasonInvalidClaim},
		"with two slashes":           {nil, map[string]any{"sub": "spiffe://prod.example.com//a"}, policy.ReasonInvalidClaim},
		"with a dot segment":         {nil, map[string]any{"sub": "spiffe://prod.example.com/a/../b"}, policy.ReasonInvalidClaim},
		"with an escape":             {nil, map[string]any{"sub": "spiffe://prod.example.com/%61"}, policy.ReasonInvalidClaim},
		"with a query":               {nil, map[string]any{"sub": web + "?a"}, policy.ReasonInvalidClaim},
		"with a letter of elsewhere": {nil, map[string]any{"sub": web + "ä"}, policy.ReasonInvalidClaim},
		"with a line end":            {nil, map[string]any{"sub": web + "\n"}, policy.ReasonInvalidClaim},
		"very long":                  {nil, map[string]any{"sub": web + strings.Repeat("a", 2048)}, policy.ReasonInvalidClaim},
		"of another trust domain":    {nil, map[string]any{"sub": "spiffe://dev.example.com/a"}, policy.ReasonUnspecified},
		"of one in another case":     {nil, map[string]any{"sub": "spiffe://PROD.example.com/a"}, policy.ReasonUnspecified},
		"scheme in another case":     {nil, map[string]any{"sub": "SPIFFE://prod.example.com/a"}, policy.ReasonUnspecified},
		"with a port":                {nil, map[string]any{"sub": "spiffe://prod.example.com:443/a"}, policy.ReasonUnspecified},
		"with a user":                {nil, map[string]any{"sub": "spiffe://u@prod.example.com/a"}, policy.ReasonUnspecified},
		"no sub":                     {nil, map[string]any{"sub": nil}, policy.ReasonUnspecified},
		"sub is a list":              {nil, map[string]any{"sub": []string{web}}, policy.ReasonUnspecified},
		"an actor":                   {nil, map[string]any{"act": map[string]any{"sub": "x"}}, policy.ReasonInvalidClaim},
		"bound in an unknown way":    {nil, map[string]any{"cnf": map[string]any{"kid": "x"}}, policy.ReasonBinding},
		"jti is a number":            {nil, map[string]any{"jti": 1}, policy.ReasonInvalidClaim},
		"jti cannot be seen":         {nil, map[string]any{"jti": "a\u200b"}, policy.ReasonInvalidClaim},
		"sub with escaped slashes":   {nil, map[string]any{"sub": json.RawMessage(`"spiffe:\/\/prod.example.com\/a"`)}, policy.ReasonAllowed},
	})
}

// change is what a token says in place of what a good one does, and what becomes of it.
type change struct {
	header, claims map[string]any
	want           policy.Reason
}

func refusals(t *testing.T, a authn.Authenticator, s *signer, good func() map[string]any, changes map[string]change) {
	t.Helper()
	for name, c := range changes {
		proof, err := authenticate(a, s.sign(t, c.header, with(good(), c.claims)))
		if got := reason(err); got != c.want || (proof != nil) != (err == nil) {
			t.Errorf("%s: got %s, want %s (%v)", name, got, c.want, err)
		}
	}
}

// RFC 7523 section 3, A-07: each thing that can be wrong with what a client signed.
func TestClientRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	unix := func(d time.Duration) int64 { return start.Add(d).Unix() }
	refusals(t, a, w.client, func() map[string]any { return w.claims(agent) }, map[string]change{
		"good":                      {nil, nil, policy.ReasonAllowed},
		"typ":                       {map[string]any{"typ": "JWT"}, nil, policy.ReasonAllowed},
		"typ in another case":       {map[string]any{"typ": "jwt"}, nil, policy.ReasonAllowed},
		"no kid":                    {map[string]any{"kid": nil}, nil, policy.ReasonAllowed},
		"typ as a media type":       {map[string]any{"typ": "application/JWT"}, nil, policy.ReasonAllowed},
		"a token in it":             {map[string]any{"cty": "JWT"}, nil, policy.ReasonWrongTokenType},
		"a DPoP proof":              {map[string]any{"typ": "dpop+jwt"}, nil, policy.ReasonWrongTokenType},
		"a request object":          {map[string]any{"typ": "oauth-authz-req+jwt"}, nil, policy.ReasonWrongTokenType},
		"another kid":               {map[string]any{"kid": "c-2"}, nil, policy.ReasonSignatureInvalid},
		"another algorithm":         {map[string]any{"alg": "ES384"}, nil, policy.ReasonSignatureInvalid},
		"HS256":                     {map[string]any{"alg": "HS256"}, nil, policy.ReasonSignatureInvalid},
		"an unknown workload":       {nil, map[string]any{"iss": "nobody", "sub": "nobody"}, policy.ReasonUnspecified},
		"no iss":                    {nil, map[string]any{"iss": nil}, policy.ReasonUnspecified},
		"no sub":                    {nil, map[string]any{"sub": nil}, policy.ReasonInvalidClaim},
		"sub of somebody else":      {nil, map[string]any{"sub": "batch"}, policy.ReasonInvalidClaim},
		"iss of somebody else":      {nil, map[string]any{"iss": "batch", "sub": "batch"}, policy.ReasonSignatureInvalid},
		"no aud":                    {nil, map[string]any{"aud": nil}, policy.ReasonInvalidAudience},
		"aud of another service":    {nil, map[string]any{"aud": "https://login.example.com/token"}, policy.ReasonInvalidAudience},
		"no exp":                    {nil, map[string]any{"exp": nil}, policy.ReasonInvalidClaim},
		"no iat":                    {nil, map[string]any{"iat": nil}, policy.ReasonInvalidClaim},
		"expired":                   {nil, map[string]any{"iat": unix(-2 * time.Minute), "exp": unix(-30 * time.Second)}, policy.ReasonExpired},
		"of the future":             {nil, map[string]any{"iat": unix(31 * time.Second)}, policy.ReasonNotYetValid},
		"as long as can be":         {nil, map[string]any{"exp": unix(5 * time.Minute)}, policy.ReasonAllowed},
		"too long":                  {nil, map[string]any{"exp": unix(5*time.Minute + time.Second)}, policy.ReasonLifetimeExceeded},
		"the farthest there can be": {nil, map[string]any{"iat": unix(30 * time.Second), "exp": unix(5*time.Minute + 30*time.Second)}, policy.ReasonAllowed},
		"no jti":                    {nil, map[string]any{"jti": nil}, policy.ReasonInvalidClaim},
		"jti null":                  {nil, map[string]any{"jti": json.RawMessage("null")}, policy.ReasonInvalidClaim},
		"jti empty":                 {nil, map[string]any{"jti": ""}, policy.ReasonInvalidClaim},
		"jti too long":              {nil, map[string]any{"jti": strings.Repeat("j", 513)}, policy.ReasonInvalidClaim},
		"an actor":                  {nil, map[string]any{"act": map[string]any{"sub": "x"}}, policy.ReasonInvalidClaim},
		"bound in an unknown way":   {nil, map[string]any{"cnf": map[string]any{"jwk": map[string]any{}}}, policy.ReasonBinding},
		"iss with an escape":        {nil, map[string]any{"iss": json.RawMessage(`"\u0070lanner"`)}, policy.ReasonAllowed},
		"large":                     {nil, map[string]any{"pad": strings.Repeat("x", 3<<10)}, policy.ReasonAllowed},
		"too large":                 {nil, map[string]any{"pad": strings.Repeat("x", 9<<10)}, policy.ReasonUnspecified},
		"a client and an SVID":      {nil, map[string]any{"sub": web}, policy.ReasonCredentialAmbiguous},
	})
	if got := mustProve(t, a, w.token(t, map[string]any{"cnf": map[string]any{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}})).Confirm; got.Key == "" {
		t.Error("the binding is lost")
	}
	if _, err := authenticate(a, w.batch(t, map[string]any{"jti": nil})); err != nil {
		t.Errorf("a reusable token without a jti: %v", err)
	}
}

// Every algorithm of the lists works with its keys.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"} {
		w.domain, w.client = newSigner(t, "d-1", alg), newSigner(t, "c-1", alg)
		w.keys = map[string]jose.Keys{"spiffe://prod.example.com": w.domain.keys(t), agent: w.client.keys(t), "batch": w.shared.keys(t)}
		a := w.authenticator(t, func(c *workload.Config, _ *workload.Deps) { c.Clients[0].Algorithms = []string{alg} })
		mustProve(t, a, w.svid(t, nil))
		mustProve(t, a, w.token(t, nil))
	}
}

// a token for one use is good once, as long as it lives; the next one is good.
func TestOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	token := w.token(t, map[string]any{"jti": "same"})
	mustProve(t, a, token)
	for ; w.now.Before(start.Add(89 * time.Second)); w.now = w.now.Add(time.Second) {
		if proof, err := authenticate(a, token); proof != nil || reason(err) != policy.ReasonReplayed {
			t.Fatalf("after %s: %v", w.now.Sub(start), err)
		}
	}
	if _, err := authenticate(a, w.token(t, map[string]any{"jti": "same"})); reason(err) != policy.ReasonReplayed {
		t.Errorf("another token with the same jti: %v", err)
	}
	mustProve(t, a, w.token(t, nil))
	w.now = start.Add(time.Hour)
	mustProve(t, a, w.token(t, map[string]any{"jti": "same"}))

	again, svid := w.batch(t, nil), w.svid(t, nil)
	for range 3 {
		mustProve(t, a, again)
		mustProve(t, a, svid)
	}
}

// of many requests with one token at once, one gets through; also while all of them
// wait for the keys.
func TestOnceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.now = time.Now()
		slow := &slowKeys{keys: w.keys[agent]}
		w.keys[agent] = slow
		a := w.authenticator(t, nil)
		for _, slow.ready = range []bool{false, true} {
			token := w.token(t, nil)
			var wins, refused atomic.Int64
			var group sync.WaitGroup
			for range 16 {
				group.Go(func() {
					switch proof, err := authenticate(a, token); {
					case err == nil:
						wins.Add(1)
					case proof == nil && reason(err) == policy.ReasonReplayed:
						refused.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			if group.Wait(); wins.Load() != 1 || refused.Load() != 15 {
				t.Errorf("%d got through, %d were refused", wins.Load(), refused.Load())
			}
		}
	})
}

// slowKeys are had only after a second.
type slowKeys struct {
	keys  jose.Keys
	ready bool
}

func (s *slowKeys) Find(ctx context.Context, kid, alg string) ([]*jose.Key, error) {
	if !s.ready {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return s.keys.Find(ctx, kid, alg)
}

// A token that is refused is not used up by that, and neither is one whose keys could not
// be had.
func TestRefusedIsNotUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := &failingKeys{}
	good := w.keys[agent]
	w.keys[agent] = keys
	a := w.authenticator(t, nil)
	token := w.token(t, map[string]any{"nbf": start.Add(time.Minute).Unix()})
	if _, err := authenticate(a, token); reason(err) != policy.ReasonUnavailable || !errors.Is(err, errDown) {
		t.Error(err)
	}
	keys.keys = good
	if _, err := authenticate(a, token); reason(err) != policy.ReasonNotYetValid {
		t.Error(err)
	}
	if _, err := authenticate(a, w.client.sign(t, nil, w.claims("batch"))); reason(err) != policy.ReasonSignatureInvalid {
		t.Error(err)
	}
	w.now = start.Add(45 * time.Second)
	mustProve(t, a, token)
}

var errDown = errors.New("the key server is down")

type failingKeys struct{ keys jose.Keys }

func (f *failingKeys) Find(ctx context.Context, kid, alg string) ([]*jose.Key, error) {
	if f.keys == nil {
		return nil, errDown
	}
	return f.keys.Find(ctx, kid, alg)
}

// A full memory is no answer about a token, and forgets nothing.
func TestFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, func(c *workload.Config, _ *workload.Deps) { c.ReplaySize = 1000 })
	first := w.token(t, nil)
	mustProve(t, a, first)
	full := false
	for range 1500 {
		if _, err := authenticate(a, w.token(t, nil)); err != nil {
			if full = true; !errors.Is(err, authn.ErrOverloaded) || reason(err) != policy.ReasonUnavailable {
				t.Fatal(err)
			}
		}
	}
	if _, err := authenticate(a, first); !full || reason(err) != policy.ReasonReplayed {
		t.Error(full, err)
	}
}

// A new configuration makes no used token good again.
func TestPrevious(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.authenticator(t, nil)
	token := w.token(t, nil)
	mustProve(t, old, token)
	a := w.authenticator(t, func(_ *workload.Config, d *workload.Deps) { d.Previous = old })
	if _, err := authenticate(a, token); reason(err) != policy.ReasonReplayed {
		t.Error(err)
	}
}

// T-02: whose a token is can be told without proving it, and two owners are a refusal.
func TestOwners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, func(_ *workload.Config, d *workload.Deps) {
		d.AlsoOwned = func(issuer, _ string) bool { return issuer == "https://login.example.com/" }
	})
	for name, c := range map[string]struct {
		token string
		owns  bool
	}{
		"an SVID":               {w.svid(t, nil), true},
		"a client's":            {w.token(t, nil), true},
		"one to use again":      {w.batch(t, nil), true},
		"one with an escape":    {w.token(t, map[string]any{"iss": json.RawMessage(`"planne\u0072"`)}), true},
		"an issuer's":           {w.client.sign(t, nil, w.claims("https://login.example.com/")), false},
		"a foreign SVID":        {w.svid(t, map[string]any{"sub": "spiffe://x.example/a"}), false},
		"a client in a corner":  {w.client.sign(t, nil, map[string]any{"iss": "x", "a": map[string]any{"iss": agent}}), false},
		"an SVID in a corner":   {w.client.sign(t, nil, map[string]any{"iss": "x", "a": web}), false},
		"opaque":                {"opaque", false},
		"a key":                 {"pst_key_live_abc", false},
		"three parts":           {"a.b.c", false},
		"not a token after all": {w.svid(t, nil) + "=", false},
		"four parts":            {w.svid(t, nil) + ".x", false},
		"nothing":               {"", false},
	} {
		if got := a.Owns(c.token); got != c.owns {
			t.Errorf("%s: %v", name, got)
		}
		if _, err := authenticate(a, c.token); c.owns == errors.Is(err, authn.ErrNotMine) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg := config()
	for _, c := range []struct {
		issuer, subject string
		owns            bool
	}{
		{"", web, true}, {agent, "", true}, {agent, web, true}, {"x", "spiffe://prod.example.com", true},
		{"x", "y", false}, {"", "", false}, {"x", "spiffe://", false}, {"x", "prod.example.com/a", false}, {"x", agent, false}, {web, "y", false},
	} {
		if a.OwnsClaims(c.issuer, c.subject) != c.owns || cfg.OwnsClaims(c.issuer, c.subject) != c.owns {
			t.Errorf("%q, %q: not %v", c.issuer, c.subject, c.owns)
		}
	}
	if _, err := authenticate(a, w.svid(t, map[string]any{"iss": "https://login.example.com/"})); reason(err) != policy.ReasonCredentialAmbiguous {
		t.Errorf("an SVID with the name of an issuer: %v", err)
	}
}

// Each link of a chain proves its own method, and uses up nothing of the other's.
func TestLinks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	svids, clients := a.Links()[0], a.Links()[1]
	if svids.Method != policy.MethodSVID || clients.Method != policy.MethodWorkload {
		t.Fatal("another order")
	}
	for name, token := range map[string]string{
		"once": w.token(t, nil), "again": w.batch(t, nil), "escaped": w.batch(t, map[string]any{"iss": json.RawMessage(`"batc\u0068"`)}),
	} {
		if _, err := authenticate(svids, token); !errors.Is(err, authn.ErrNotMine) {
			t.Errorf("%s: %v", name, err)
		}
		mustProve(t, clients, token)
	}
	for name, token := range map[string]string{
		"plain": w.svid(t, nil), "escaped": w.svid(t, map[string]any{"sub": json.RawMessage(`"spiffe:\/\/prod.example.com\/a"`)}),
		"with the name of a client in a corner": w.svid(t, map[string]any{"x": map[string]any{"iss": agent}}),
	} {
		if _, err := authenticate(clients, token); !errors.Is(err, authn.ErrNotMine) {
			t.Errorf("%s: %v", name, err)
		}
		mustProve(t, svids, token)
		mustProve(t, svids, token)
	}
	chain := authn.Chain(a.Links())
	proof, err := chain.Authenticate(t.Context(), &authn.Credential{Uses: []policy.Method{policy.MethodSVID, policy.MethodWorkload}, Secret: policy.NewSecret(w.token(t, nil))})
	if err != nil || proof.Principal.Method != policy.MethodWorkload {
		t.Error(err)
	}
}

// A proof that may be used again is worked out once, as long as its keys count.
func TestCached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := &changingKeys{Keys: w.keys["spiffe://prod.example.com"]}
	w.keys["spiffe://prod.example.com"] = keys
	a := w.authenticator(t, nil)
	token := w.svid(t, nil)
	if mustProve(t, a, token) != mustProve(t, a, token) || keys.asked.Load() != 1 {
		t.Errorf("the keys were asked for %d times", keys.asked.Load())
	}
	keys.epoch.Add(1)
	if mustProve(t, a, token); keys.asked.Load() != 2 {
		t.Error("a proof by keys that were replaced")
	}
	w.now = start.Add(6 * time.Minute)
	if _, err := authenticate(a, token); reason(err) != policy.ReasonExpired {
		t.Error(err)
	}
}

type changingKeys struct {
	jose.Keys
	asked atomic.Int64
	epoch atomic.Uint64
}

func (c *changingKeys) Find(ctx context.Context, kid, alg string) ([]*jose.Key, error) {
	c.asked.Add(1)
	return c.Keys.Find(ctx, kid, alg)
}

func (c *changingKeys) Epoch() uint64 { return c.epoch.Load() }

// The promises that every kind of credential keeps, for tokens that may be used again.
func TestConformance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good, svid := w.batch(t, nil), w.svid(t, nil)
	authntest.Suite{
		Authenticator: w.authenticator(t, nil),
		Uses:          []policy.Method{policy.MethodSVID, policy.MethodWorkload},
		Good:          map[string]string{good: "batch", svid: web},
		Bad: map[string]policy.Reason{
			w.svid(t, map[string]any{"exp": start.Add(-time.Hour).Unix(), "iat": nil}): policy.ReasonExpired,
			w.svid(t, map[string]any{"aud": "x"}):                                      policy.ReasonInvalidAudience,
			w.batch(t, map[string]any{"sub": "x"}):                                     policy.ReasonInvalidClaim,
			newWorld(t).svid(t, nil):                                                   policy.ReasonSignatureInvalid,
			newWorld(t).batch(t, nil):                                                  policy.ReasonSignatureInvalid,
			newWorld(t).token(t, nil):                                                  policy.ReasonSignatureInvalid,
		},
		NotMine: []string{"pst_key_live_abc", "opaque", "a.b.c", good + "=", w.client.sign(t, nil, w.claims("https://login.example.com/"))},
	}.Run(t)
}

// The zero configuration proves nobody.
func TestNobody(t *testing.T) {
	t.Parallel()
	a, err := workload.New(workload.Config{}, workload.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	for _, token := range []string{w.svid(t, nil), w.token(t, nil), ""} {
		if proof, err := authenticate(a, token); proof != nil || !errors.Is(err, authn.ErrNotMine) || a.Owns(token) {
			t.Error(err)
		}
	}
}

// Whose a token is costs the others nothing but a look.
func TestForeignTokensDoNotAllocate(t *testing.T) {
	w := newWorld(t)
	a := w.authenticator(t, nil)
	c := &authn.Credential{Secret: policy.NewSecret(w.client.sign(t, nil, w.claims("https://login.example.com/")))}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := a.Authenticate(context.Background(), c); !errors.Is(err, authn.ErrNotMine) {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzAuthenticate: whatever was signed, there is no panic and no error that is no
// refusal; whoever is proven is who it may be; and what is good once is bad twice.
func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f)
	a := w.authenticator(f, nil)
	f.Add(`{"alg":"EdDSA","kid":"c-1"}`, text(f, w.claims(agent)), true)
	f.Add(`{"alg":"ES256","kid":"d-1","typ":"JWT"}`, text(f, w.svidClaims()), false)
	f.Add(`{"alg":"EdDSA"}`, `{"a":{"iss":"planner"},"iss" : "planner","sub":"planner","aud":["orders"],"iat":1772366400,"exp":1772366460,"jti":"x","scope":"read"}`, true)
	f.Add(`{"alg":"ES256","kid":"d-1"}`, `{"sub":"spiffe:\/\/prod.example.com/a","aud":"orders","exp":1772366460}`, false)
	f.Fuzz(func(t *testing.T, header, payload string, byClient bool) {
		s := w.domain
		if byClient {
			s = w.client
		}
		token := s.signText(t, header, payload)
		proof, err := authenticate(a, token)
		if err != nil {
			if proof != nil || !errors.Is(err, authn.ErrNotMine) && reason(err).Status() != 401 {
				t.Fatalf("%q %q: %v", header, payload, err)
			}
			if errors.Is(err, authn.ErrNotMine) && a.Owns(token) {
				t.Fatalf("%q %q: owned, and not mine", header, payload)
			}
			return
		}
		p := proof.Principal
		switch {
		case byClient && (p.ID != agent || p.Method != policy.MethodWorkload), !byClient && (!strings.HasPrefix(p.ID, "spiffe://prod.example.com/") || p.Method != policy.MethodSVID):
			t.Fatalf("%q %q: %+v", header, payload, p)
		case !w.now.Before(proof.NotAfter) || !a.Owns(token):
			t.Fatalf("%q %q: until %s", header, payload, proof.NotAfter)
		}
		if _, err := authenticate(a, token); byClient != (reason(err) == policy.ReasonReplayed) {
			t.Fatalf("%q, twice: %v", payload, err)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	w := newWorld(b)
	a := w.authenticator(b, nil)
	run := func(name string, token string, want policy.Reason) {
		c := &authn.Credential{Secret: policy.NewSecret(token)}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Authenticate(context.Background(), c); reason(err) != want {
					b.Fatal(err)
				}
			}
		})
	}
	run("somebody else's", w.client.sign(b, nil, w.claims("https://login.example.com/")), policy.ReasonUnspecified)
	run("an SVID seen before", w.svid(b, nil), policy.ReasonAllowed)
	used := w.token(b, nil)
	mustProve(b, a, used)
	run("used", used, policy.ReasonReplayed)
}
