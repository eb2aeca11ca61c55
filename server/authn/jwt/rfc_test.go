package jwt_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/jwt"
)

// rfcCase is one requirement of an RFC: what a token says, and what becomes of it.
type rfcCase struct {
	section, header string // header adds to alg and kid
	changes         map[string]any
	want            policy.Reason
}

func runRFC(t *testing.T, w *world, a *jwt.Authenticator, base map[string]any, cases []rfcCase) {
	t.Helper()
	for _, c := range cases {
		changes := map[string]any{}
		for _, m := range []map[string]any{base, c.changes} {
			for name, v := range m {
				changes[name] = v
			}
		}
		token := w.sign(t, `{"alg":"EdDSA","kid":"k-1"`+c.header+`}`, claims(changes))
		if _, err := authenticate(a, token); reason(err) != c.want {
			t.Errorf("section %s, %s %v: got %s, want %s (%v)", c.section, c.header, c.changes, reason(err), c.want, err)
		}
	}
}

// G-13: RFC 7519, what a receiver of a JWT has to do.
func TestRFC7519(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }
	fraction := json.RawMessage(now.Add(time.Minute).Format("20060102")) // a number, and long past as one
	runRFC(t, w, w.authenticator(t, nil), nil, []rfcCase{
		{"2, NumericDate with a fraction", "", map[string]any{"exp": float64(unix(time.Minute)) + 0.5}, policy.ReasonAllowed},
		{"2, NumericDate is seconds", "", map[string]any{"exp": fraction, "iat": nil}, policy.ReasonExpired},
		{"2, NumericDate is no text", "", map[string]any{"exp": "2036-03-01T12:00:00Z"}, policy.ReasonInvalidClaim},
		{"4, names are unique", `,"kid":"k-1"`, nil, policy.ReasonCredentialMalformed},
		{"4.1.1, iss is case-sensitive", "", map[string]any{"iss": "https://Issuer.example.com/"}, policy.ReasonIssuerUntrusted},
		{"4.1.2, sub is a string", "", map[string]any{"sub": 7}, policy.ReasonInvalidClaim},
		{"4.1.3, aud is a string", "", map[string]any{"aud": "orders"}, policy.ReasonAllowed},
		{"4.1.3, aud is a list", "", map[string]any{"aud": []string{"a", "orders"}}, policy.ReasonAllowed},
		{"4.1.3, aud is case-sensitive", "", map[string]any{"aud": "ORDERS"}, policy.ReasonInvalidAudience},
		{"4.1.3, aud of others", "", map[string]any{"aud": []string{"a", "b"}}, policy.ReasonInvalidAudience},
		{"4.1.3, aud is an object", "", map[string]any{"aud": map[string]any{"orders": 1}}, policy.ReasonInvalidAudience},
		{"4.1.4, on exp itself, after the leeway", "", map[string]any{"exp": unix(-30 * time.Second)}, policy.ReasonExpired},
		{"4.1.5, before nbf", "", map[string]any{"nbf": unix(time.Minute)}, policy.ReasonNotYetValid},
		{"4.1.6, iat is a date", "", map[string]any{"iat": true}, policy.ReasonInvalidClaim},
		{"4.1.7, jti is a string", "", map[string]any{"jti": []string{"a"}}, policy.ReasonInvalidClaim},
		{"4.3, private claims are ignored", "", map[string]any{"x": map[string]any{"y": []int{1}}}, policy.ReasonAllowed},
		{"5.1, typ JWT", `,"typ":"JWT"`, nil, policy.ReasonAllowed},
		{"5.2, a nested JWT", `,"cty":"JWT"`, nil, policy.ReasonWrongTokenType},
		{"5.3, claims in the header say nothing", `,"iss":"https://evil.example.com/","sub":"root"`, nil, policy.ReasonAllowed},
		{"7.2, extensions that are not understood", `,"crit":["exp"],"exp":1`, nil, policy.ReasonCredentialMalformed},
	})
	if _, err := authenticate(w.authenticator(t, nil), w.sign(t, `{"alg":"none"}`, claims(nil))); reason(err) != policy.ReasonSignatureInvalid {
		t.Errorf("section 6, unsecured: %v", err)
	}
}

// G-13, O-08: RFC 9068, what a resource server demands of an access token.
func TestRFC9068(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const typed = `,"typ":"at+jwt"`
	strict := w.authenticator(t, func(c *jwt.Config) { c.TokenTypes = jwt.Strict })
	runRFC(t, w, strict, map[string]any{"client_id": "app"}, []rfcCase{
		{"2.1, typ", typed, nil, policy.ReasonAllowed},
		{"2.1, typ with its tree", `,"typ":"application/at+jwt"`, nil, policy.ReasonAllowed},
		{"4, another typ", `,"typ":"JWT"`, nil, policy.ReasonWrongTokenType},
		{"4, no typ", ``, nil, policy.ReasonWrongTokenType},
		{"2.2, iss", typed, map[string]any{"iss": nil}, policy.ReasonIssuerUntrusted},
		{"2.2, exp", typed, map[string]any{"exp": nil}, policy.ReasonInvalidClaim},
		{"2.2, aud", typed, map[string]any{"aud": nil}, policy.ReasonInvalidAudience},
		{"2.2, sub", typed, map[string]any{"sub": nil}, policy.ReasonInvalidClaim},
		{"2.2, client_id", typed, map[string]any{"client_id": nil}, policy.ReasonInvalidClaim},
		{"2.2, iat", typed, map[string]any{"iat": nil}, policy.ReasonInvalidClaim},
		{"2.2, jti", typed, map[string]any{"jti": nil}, policy.ReasonInvalidClaim},
		{"2.2.1, auth_time of the future", typed, map[string]any{"auth_time": now.Add(time.Hour).Unix()}, policy.ReasonInvalidClaim},
		{"4, aud of another resource", typed, map[string]any{"aud": "billing"}, policy.ReasonInvalidAudience},
		{"4, expired", typed, map[string]any{"exp": now.Add(-time.Minute).Unix()}, policy.ReasonExpired},
		{"5, an ID token in disguise", typed, map[string]any{"at_hash": "x"}, policy.ReasonWrongTokenType},
	})
	// Section 2.2.3: authorization claims, and section 2.2: a client for itself.
	proof := mustProve(t, strict, w.sign(t, plainHeader[:len(plainHeader)-1]+typed+"}", claims(map[string]any{
		"sub": "app", "client_id": "app", "scope": "read write", "roles": []string{"r"},
	})))
	if p := proof.Principal; p.Kind != policy.KindService || len(p.Scopes) != 2 || len(p.Roles) != 1 || proof.Subject.Client != "app" {
		t.Errorf("%+v", p)
	}
}

// G-13, C-06: RFC 8705, a token that is bound to a certificate says so to whoever checks it.
func TestRFC8705(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	// Section 3.1: the SHA-256 of the certificate's DER, base64url.
	proof := mustProve(t, a, w.token(t, map[string]any{"cnf": map[string]any{"x5t#S256": "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}}))
	if want := (authn.Confirmation{Certificate: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}); proof.Confirm != want {
		t.Errorf("%+v", proof.Confirm)
	}
	runRFC(t, w, a, nil, []rfcCase{
		{"3.1, x5t is no substitute", "", map[string]any{"cnf": map[string]any{"x5t": "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}}, policy.ReasonBinding},
		{"3.1, not a digest", "", map[string]any{"cnf": map[string]any{"x5t#S256": "x"}}, policy.ReasonBinding},
	})
}
