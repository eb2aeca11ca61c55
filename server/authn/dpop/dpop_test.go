package dpop_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	golangjwt "github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/dpop"
	"github.com/postern-auth/postern/server/jose"
)

// start is the time at which all these tests begin.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const accessToken = "an.access.token"

// client is a client with its key.
type client struct {
	alg     string
	private crypto.Signer
	jwk     map[string]any
	key     string // the thumbprint
}

func newClient(t testing.TB, alg string) *client {
	t.Helper()
	c := &client{alg: alg}
	var err error
	switch {
	case alg == "EdDSA" || alg == "Ed25519":
		_, c.private, err = ed25519.GenerateKey(rand.Reader)
	case strings.HasPrefix(alg, "ES"):
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]
		c.private, err = ecdsa.GenerateKey(curve, rand.Reader)
	default:
		c.private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	public := c.private.Public()
	c.jwk = jwkOf(t, public)
	c.key = (&jose.Key{Public: public}).Thumbprint()
	return c
}

func jwkOf(t testing.TB, public any) map[string]any {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	switch p := public.(type) {
	case ed25519.PublicKey:
		return map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(p)}
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := len(point) / 2
		return map[string]any{"kty": "EC", "crv": p.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "n": b64(p.N.Bytes()), "e": b64(big.NewInt(int64(p.E)).Bytes())}
	}
	t.Fatalf("%T", public)
	return nil
}

// with returns a copy with some members set; nil removes one.
func with(m map[string]any, changes map[string]any) map[string]any {
	m = maps.Clone(m)
	maps.Copy(m, changes)
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return m
}

var serial atomic.Int64

// claims are those of a good proof for the request of possession, made at an instant.
func claims(now time.Time) map[string]any {
	sum := sha256.Sum256([]byte(accessToken))
	return map[string]any{
		"jti": fmt.Sprintf("proof-%d", serial.Add(1)), "htm": "POST", "htu": "https://api.example.com/orders/7",
		"iat": now.Unix(), "ath": base64.RawURLEncoding.EncodeToString(sum[:]),
	}
}

func (c *client) header() map[string]any {
	return map[string]any{"typ": "dpop+jwt", "alg": c.alg, "jwk": c.jwk}
}

func (c *client) sign(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	p, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return c.signText(t, string(h), string(p))
}

func (c *client) signText(t testing.TB, header, claims string) string {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	alg := c.alg
	if alg == "Ed25519" {
		alg = "EdDSA"
	}
	signature, err := golangjwt.GetSigningMethod(alg).Sign(text, c.private)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (c *client) proof(t testing.TB, now time.Time, changes map[string]any) string {
	t.Helper()
	return c.sign(t, c.header(), with(claims(now), changes))
}

// possession is a request of the client with that proof.
func (c *client) possession(proof string) *authn.Possession {
	return &authn.Possession{
		Proof: proof, Method: "POST", Scheme: "https", Host: "api.example.com", Path: "/orders/7",
		Token: policy.NewSecret(accessToken), Key: c.key,
	}
}

// clock is a time that a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func verifier(t testing.TB, c *clock, change func(*dpop.Config)) *dpop.Verifier {
	t.Helper()
	var cfg dpop.Config
	cfg.SetDefaults()
	if change != nil {
		change(&cfg)
	}
	v, err := dpop.New(cfg, dpop.Deps{Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// reason is that of a refusal, or one that no refusal has.
func reason(err error) policy.Reason {
	var refusal *authn.Refusal
	switch {
	case err == nil:
		return policy.ReasonAllowed
	case errors.As(err, &refusal):
		return refusal.Reason
	}
	return policy.ReasonUnavailable
}

// G-13: every algorithm that is accepted works, and no other.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	at := &clock{start}
	all := verifier(t, at, func(c *dpop.Config) {
		c.Algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
	})
	byDefault := verifier(t, at, nil)
	for alg, isDefault := range map[string]bool{
		"ES256": true, "EdDSA": true, "Ed25519": true, "RS256": true, "PS256": true,
		"ES384": false, "ES512": false, "RS384": false, "RS512": false, "PS384": false, "PS512": false,
	} {
		c := newClient(t, alg)
		proof := c.possession(c.proof(t, start, nil))
		if err := all.Verify(proof); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if err := byDefault.Verify(proof); isDefault != (err == nil) || err != nil && reason(err) != policy.ReasonSignatureInvalid {
			t.Errorf("%s, by default: %v", alg, err)
		}
	}
}

// G-13: each thing that can be wrong with a proof.
func TestRefusals(t *testing.T) {
	t.Parallel()
	at := &clock{start}
	v := verifier(t, at, nil)
	c, other := newClient(t, "ES256"), newClient(t, "ES256")
	unix := func(d time.Duration) int64 { return start.Add(d).Unix() }
	for name, tt := range map[string]struct {
		header, claims map[string]any
		want           policy.Reason
	}{
		"good":                     {nil, nil, policy.ReasonAllowed},
		"typ in capitals":          {map[string]any{"typ": "DPOP+JWT"}, nil, policy.ReasonAllowed},
		"typ as a media type":      {map[string]any{"typ": "application/dpop+JWT"}, nil, policy.ReasonAllowed},
		"typ of another tree":      {map[string]any{"typ": "text/dpop+jwt"}, nil, policy.ReasonWrongTokenType},
		"no typ":                   {map[string]any{"typ": nil}, nil, policy.ReasonWrongTokenType},
		"typ of another JWT":       {map[string]any{"typ": "JWT"}, nil, policy.ReasonWrongTokenType},
		"typ of an access token":   {map[string]any{"typ": "at+jwt"}, nil, policy.ReasonWrongTokenType},
		"typ is no text":           {map[string]any{"typ": 1}, nil, policy.ReasonCredentialMalformed},
		"alg none":                 {map[string]any{"alg": "none"}, nil, policy.ReasonSignatureInvalid},
		"alg HS256":                {map[string]any{"alg": "HS256"}, nil, policy.ReasonSignatureInvalid},
		"alg of another key":       {map[string]any{"alg": "RS256"}, nil, policy.ReasonSignatureInvalid},
		"no alg":                   {map[string]any{"alg": nil}, nil, policy.ReasonSignatureInvalid},
		"crit":                     {map[string]any{"crit": []string{"exp"}}, nil, policy.ReasonCredentialMalformed},
		"b64":                      {map[string]any{"b64": false}, nil, policy.ReasonCredentialMalformed},
		"no jwk":                   {map[string]any{"jwk": nil}, nil, policy.ReasonCredentialMalformed},
		"jwk is text":              {map[string]any{"jwk": "key"}, nil, policy.ReasonCredentialMalformed},
		"jwk is empty":             {map[string]any{"jwk": map[string]any{}}, nil, policy.ReasonCredentialMalformed},
		"jwk is symmetric":         {map[string]any{"jwk": map[string]any{"kty": "oct", "k": "c2VjcmV0"}}, nil, policy.ReasonCredentialMalformed},
		"jwk is private":           {map[string]any{"jwk": with(c.jwk, map[string]any{"d": "AQAB"})}, nil, policy.ReasonCredentialMalformed},
		"jwk has a private null":   {map[string]any{"jwk": with(c.jwk, map[string]any{"d": json.RawMessage("null")})}, nil, policy.ReasonCredentialMalformed},
		"jwk has a symmetric part": {map[string]any{"jwk": with(c.jwk, map[string]any{"k": "AQAB"})}, nil, policy.ReasonCredentialMalformed},
		"jwk off the curve":        {map[string]any{"jwk": with(c.jwk, map[string]any{"x": c.jwk["y"]})}, nil, policy.ReasonCredentialMalformed},
		"jwk for encryption":       {map[string]any{"jwk": with(c.jwk, map[string]any{"use": "enc"})}, nil, policy.ReasonCredentialMalformed},
		"jwk with kid and use":     {map[string]any{"jwk": with(c.jwk, map[string]any{"use": "sig", "kid": "k", "alg": "ES256"})}, nil, policy.ReasonAllowed},
		"jwk for another alg":      {map[string]any{"jwk": with(c.jwk, map[string]any{"alg": "ES384"})}, nil, policy.ReasonCredentialMalformed},
		"jwk padded":               {map[string]any{"jwk": with(c.jwk, map[string]any{"x": c.jwk["x"].(string) + "="})}, nil, policy.ReasonCredentialMalformed},
		"jwk of somebody else":     {map[string]any{"jwk": other.jwk}, nil, policy.ReasonBinding},
		"jku beside it":            {map[string]any{"jku": "https://evil.example/"}, nil, policy.ReasonCredentialMalformed},
		"x5u beside it":            {map[string]any{"x5u": "https://evil.example/"}, nil, policy.ReasonCredentialMalformed},
		"x5c beside it":            {map[string]any{"x5c": []string{}}, nil, policy.ReasonCredentialMalformed},
		"kid beside it":            {map[string]any{"kid": "k-1"}, nil, policy.ReasonAllowed},

		"no htm":                  {nil, map[string]any{"htm": nil}, policy.ReasonBinding},
		"another method":          {nil, map[string]any{"htm": "GET"}, policy.ReasonBinding},
		"method in another case":  {nil, map[string]any{"htm": "post"}, policy.ReasonBinding},
		"methods in a list":       {nil, map[string]any{"htm": []string{"POST"}}, policy.ReasonBinding},
		"no htu":                  {nil, map[string]any{"htu": nil}, policy.ReasonBinding},
		"htu is a list":           {nil, map[string]any{"htu": []string{"https://api.example.com/orders/7"}}, policy.ReasonBinding},
		"another target":          {nil, map[string]any{"htu": "https://api.example.com/orders/8"}, policy.ReasonBinding},
		"no ath":                  {nil, map[string]any{"ath": nil}, policy.ReasonBinding},
		"ath of another token":    {nil, map[string]any{"ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"}, policy.ReasonBinding},
		"ath padded":              {nil, map[string]any{"ath": claims(start)["ath"].(string) + "="}, policy.ReasonBinding},
		"no iat":                  {nil, map[string]any{"iat": nil}, policy.ReasonInvalidClaim},
		"iat is text":             {nil, map[string]any{"iat": "1772366400"}, policy.ReasonInvalidClaim},
		"iat null":                {nil, map[string]any{"iat": json.RawMessage("null")}, policy.ReasonInvalidClaim},
		"iat negative":            {nil, map[string]any{"iat": -1}, policy.ReasonInvalidClaim},
		"iat overflowing":         {nil, map[string]any{"iat": json.RawMessage("1e300")}, policy.ReasonInvalidClaim},
		"oldest":                  {nil, map[string]any{"iat": unix(-40 * time.Second)}, policy.ReasonAllowed},
		"too old":                 {nil, map[string]any{"iat": unix(-41 * time.Second)}, policy.ReasonBinding},
		"of the near future":      {nil, map[string]any{"iat": unix(10 * time.Second)}, policy.ReasonAllowed},
		"of the future":           {nil, map[string]any{"iat": unix(11 * time.Second)}, policy.ReasonBinding},
		"with a fraction":         {nil, map[string]any{"iat": json.RawMessage(fmt.Sprintf("%d.5", start.Unix()))}, policy.ReasonAllowed},
		"expired":                 {nil, map[string]any{"exp": unix(-10 * time.Second)}, policy.ReasonBinding},
		"not expired":             {nil, map[string]any{"exp": unix(-9 * time.Second)}, policy.ReasonAllowed},
		"exp is text":             {nil, map[string]any{"exp": "never"}, policy.ReasonBinding},
		"not yet":                 {nil, map[string]any{"nbf": unix(time.Minute)}, policy.ReasonBinding},
		"no jti":                  {nil, map[string]any{"jti": nil}, policy.ReasonInvalidClaim},
		"jti empty":               {nil, map[string]any{"jti": ""}, policy.ReasonInvalidClaim},
		"jti is a number":         {nil, map[string]any{"jti": 1}, policy.ReasonInvalidClaim},
		"jti too long":            {nil, map[string]any{"jti": strings.Repeat("j", 513)}, policy.ReasonInvalidClaim},
		"jti long":                {nil, map[string]any{"jti": strings.Repeat("j", 512)}, policy.ReasonAllowed},
		"a nonce that nobody set": {nil, map[string]any{"nonce": "x"}, policy.ReasonAllowed},
		"over 8 KiB":              {nil, map[string]any{"pad": strings.Repeat("x", 9<<10)}, policy.ReasonTokenTooLarge},
	} {
		err := v.Verify(c.possession(c.sign(t, with(c.header(), tt.header), with(claims(start), tt.claims))))
		if got := reason(err); got != tt.want {
			t.Errorf("%s: got %s, want %s (%v)", name, got, tt.want, err)
		}
		if err != nil && reason(err).Status() != 401 {
			t.Errorf("%s: %v is no 401", name, err)
		}
	}
}

// G-13: what is no JWS is refused, whatever it is; two fields joined by a comma among it.
func TestMalformed(t *testing.T) {
	t.Parallel()
	v := verifier(t, &clock{start}, nil)
	c := newClient(t, "ES256")
	good := c.proof(t, start, nil)
	parts := strings.Split(good, ".")
	for _, proof := range []string{
		"", ".", "..", "...", "x", good + ",", good + "," + good, good + ", " + good, " " + good, good + "\n", good + "=", good + ".x",
		parts[0] + "." + parts[1], parts[0] + "." + parts[1] + ".", `{"payload":""}`, strings.Repeat(".", 1<<14), strings.Repeat("a", 1<<20),
		c.signText(t, `{"typ":"dpop+jwt","typ":"dpop+jwt","alg":"ES256","jwk":{}}`, `{}`), c.signText(t, `[]`, `{}`), c.signText(t, `{"typ":"dpop+jwt"`, `{}`),
	} {
		err := v.Verify(c.possession(proof))
		if got := reason(err); got != policy.ReasonCredentialMalformed && got != policy.ReasonTokenTooLarge && got != policy.ReasonSignatureInvalid {
			t.Errorf("%.40q: %v", proof, err)
		}
	}
	if err := v.Verify(c.possession(good)); err != nil {
		t.Errorf("the good one is used up: %v", err)
	}
}

// The signature is over everything: no bit of a proof can be changed.
func TestTampered(t *testing.T) {
	t.Parallel()
	v := verifier(t, &clock{start}, nil)
	c := newClient(t, "ES256")
	good := c.proof(t, start, nil)
	for i := range good {
		b := []byte(good)
		if b[i] ^= 1; b[i] == '.' || good[i] == '.' {
			continue
		}
		if err := v.Verify(c.possession(string(b))); err == nil || reason(err).Status() != 401 {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
}

// A question without an answer is an error and no refusal: the gateway did not say how
// the request came.
func TestUnknownRequest(t *testing.T) {
	t.Parallel()
	v := verifier(t, &clock{start}, nil)
	c := newClient(t, "ES256")
	for name, change := range map[string]func(*authn.Possession){
		"scheme": func(p *authn.Possession) { p.Scheme = "" },
		"host":   func(p *authn.Possession) { p.Host = "" },
		"token":  func(p *authn.Possession) { p.Token = policy.Secret{} },
		"key":    func(p *authn.Possession) { p.Key = "" },
		"all":    func(p *authn.Possession) { *p = authn.Possession{} },
	} {
		p := c.possession(c.proof(t, start, nil))
		change(p)
		if err := v.Verify(p); reason(err) != policy.ReasonUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// RFC 9449 section 4.3, check 9, and RFC 3986 section 6.2: what is the same target.
func TestTarget(t *testing.T) {
	t.Parallel()
	v := verifier(t, &clock{start}, nil)
	c := newClient(t, "EdDSA")
	for _, tt := range []struct {
		scheme, host string
		port         uint16
		path, htu    string
		same         bool
	}{
		{"https", "api.example.com", 0, "/a", "https://api.example.com/a", true},
		{"https", "api.example.com", 0, "/a", "HTTPS://API.Example.COM/a", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com:443/a", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com:/a", true},
		{"https", "api.example.com", 443, "/a", "https://api.example.com/a", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com./a", true},
		{"http", "api.example.com", 0, "/a", "http://api.example.com:80/a", true},
		{"https", "api.example.com", 8443, "/a", "https://api.example.com:8443/a", true},
		{"https", "api.example.com", 8443, "/a", "https://api.example.com/a", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com:80/a", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com:8443/a", false},
		{"https", "api.example.com", 0, "/a", "http://api.example.com/a", false},
		{"http", "api.example.com", 0, "/a", "https://api.example.com:80/a", false},
		{"https", "api.example.com", 0, "/a", "https://evil.example.com/a", false},
		{"https", "api.example.com", 0, "/a", "https://user@api.example.com/a", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com@evil.example/a", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com:99999/a", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com:0/a", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com:+443/a", false},
		{"https", "api.example.com", 0, "/a", "https:///a", false},
		{"https", "api.example.com", 0, "/a", "https:/a", false},
		{"https", "api.example.com", 0, "/a", "//api.example.com/a", false},
		{"https", "api.example.com", 0, "/a", "/a", false},
		{"https", "api.example.com", 0, "/a", "", false},
		{"https", "api.example.com", 0, "/a", " https://api.example.com/a", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/a\n", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/ä", false},

		{"https", "api.example.com", 0, "/", "https://api.example.com", true},
		{"https", "api.example.com", 0, "/", "https://api.example.com/", true},
		{"https", "api.example.com", 0, "/", "https://api.example.com?x=1", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/a?x=1&y=/b#z", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/a#?", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/a/", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/A", false},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/%61", true},
		{"https", "api.example.com", 0, "/%61", "https://api.example.com/a", true},
		{"https", "api.example.com", 0, "/a%2fb", "https://api.example.com/a%2Fb", true},
		{"https", "api.example.com", 0, "/a%2Fb", "https://api.example.com/a/b", false},
		{"https", "api.example.com", 0, "/a%20b", "https://api.example.com/a%20b", true},
		{"https", "api.example.com", 0, "/a+b", "https://api.example.com/a%2Bb", false},
		{"https", "api.example.com", 0, "/%7Eme", "https://api.example.com/~me", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/b/../a", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/./b/%2e%2E/a", true},
		{"https", "api.example.com", 0, "/a/", "https://api.example.com/a/b/..", true},
		{"https", "api.example.com", 0, "/a/", "https://api.example.com/a/.", true},
		{"https", "api.example.com", 0, "/a", "https://api.example.com/../../a", true},
		{"https", "api.example.com", 0, "/.well-known", "https://api.example.com/.well-known", true},
		{"https", "api.example.com", 0, "/...", "https://api.example.com/...", true},
		{"https", "api.example.com", 0, "/a//b", "https://api.example.com/a/b", false},
		{"https", "api.example.com", 0, "/a%", "https://api.example.com/a%", false},
		{"https", "api.example.com", 0, "/a%2", "https://api.example.com/a%2", false},
		{"https", "api.example.com", 0, "/a%zz", "https://api.example.com/a%zz", false},
		{"https", "api.example.com", 0, "*", "https://api.example.com/*", false},

		{"https", "[2001:db8::1]", 0, "/a", "https://[2001:DB8:0::1]/a", true},
		{"https", "[2001:db8::1]", 8443, "/a", "https://[2001:db8::1]:8443/a", true},
		{"https", "[2001:db8::1]", 0, "/a", "https://[2001:db8::2]/a", false},
		{"https", "[2001:db8::1]", 0, "/a", "https://2001:db8::1/a", false},
		{"https", "127.0.0.1", 0, "/a", "https://127.0.0.1/a", true},
		{"https", "127.0.0.1", 0, "/a", "https://[::ffff:127.0.0.1]/a", false},
	} {
		p := c.possession(c.proof(t, start, map[string]any{"htu": tt.htu}))
		p.Scheme, p.Host, p.Port, p.Path = tt.scheme, tt.host, tt.port, tt.path
		if err := v.Verify(p); tt.same != (err == nil) || err != nil && reason(err) != policy.ReasonBinding {
			t.Errorf("%s for %s %s %d %s: %v", tt.htu, tt.scheme, tt.host, tt.port, tt.path, err)
		}
	}
}

// RFC 9449 section 11.1: a proof is good once, for as long as it would be good at all,
// and then it is too old.
func TestReplay(t *testing.T) {
	t.Parallel()
	at := &clock{start}
	v := verifier(t, at, nil)
	c, other := newClient(t, "ES256"), newClient(t, "ES256")
	future := start.Add(10 * time.Second)
	proof := c.possession(c.proof(t, future, map[string]any{"jti": "same"}))
	if err := v.Verify(proof); err != nil {
		t.Fatal(err)
	}
	for at.now = start; at.now.Before(start.Add(3 * time.Minute)); at.now = at.now.Add(time.Second) {
		if err := v.Verify(proof); reason(err) != policy.ReasonReplayed && reason(err) != policy.ReasonBinding {
			t.Fatalf("after %s: %v", at.now.Sub(start), err)
		}
	}
	// The same id of another key is another proof; of the same key it is not, also for
	// another target.
	at.now = start.Add(time.Hour)
	if err := v.Verify(c.possession(c.proof(t, at.now, map[string]any{"jti": "same"}))); err != nil {
		t.Error(err)
	}
	if err := v.Verify(other.possession(other.proof(t, at.now, map[string]any{"jti": "same"}))); err != nil {
		t.Error(err)
	}
	elsewhere := c.possession(c.proof(t, at.now, map[string]any{"jti": "same", "htu": "https://api.example.com/x"}))
	elsewhere.Path = "/x"
	if err := v.Verify(elsewhere); reason(err) != policy.ReasonReplayed {
		t.Error(err)
	}
}

// A refused proof is not used up: only what got to the last step is.
func TestRefusedIsNotUsed(t *testing.T) {
	t.Parallel()
	v := verifier(t, &clock{start}, nil)
	c := newClient(t, "ES256")
	proof := c.possession(c.proof(t, start, nil))
	proof.Method = "GET"
	if err := v.Verify(proof); err == nil {
		t.Fatal("it fits another method")
	}
	if proof.Method = "POST"; v.Verify(proof) != nil || v.Remembered() != 1 {
		t.Errorf("%d are remembered", v.Remembered())
	}
}

// Of many requests with one proof at once, one gets through.
func TestReplayAtOnce(t *testing.T) {
	t.Parallel()
	v := verifier(t, &clock{start}, nil)
	c := newClient(t, "ES256")
	for range 20 {
		proof := c.possession(c.proof(t, start, nil))
		var wins atomic.Int64
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if v.Verify(proof) == nil {
					wins.Add(1)
				}
			})
		}
		if group.Wait(); wins.Load() != 1 {
			t.Fatalf("%d got through", wins.Load())
		}
	}
}

// A full memory denies as "could not find out", and forgets nothing.
func TestFull(t *testing.T) {
	t.Parallel()
	at := &clock{start}
	v := verifier(t, at, func(c *dpop.Config) { c.ReplaySize = 1000 })
	c := newClient(t, "EdDSA")
	first := c.possession(c.proof(t, start, nil))
	if err := v.Verify(first); err != nil {
		t.Fatal(err)
	}
	full := false
	for range 3000 {
		if err := v.Verify(c.possession(c.proof(t, start, nil))); err != nil {
			full = true
			if !errors.Is(err, authn.ErrOverloaded) || reason(err) != policy.ReasonUnavailable {
				t.Fatal(err)
			}
		}
	}
	if !full || v.Remembered() > 1100 {
		t.Errorf("%d are remembered", v.Remembered())
	}
	if err := v.Verify(first); reason(err) != policy.ReasonReplayed {
		t.Errorf("the first one: %v", err)
	}
	at.now = start.Add(time.Minute)
	if err := v.Verify(c.possession(c.proof(t, at.now, nil))); err != nil {
		t.Errorf("after a minute: %v", err)
	}
}

// RFC 9449 sections 8 and 9: with nonces, these tell how old a proof is.
func TestNonce(t *testing.T) {
	t.Parallel()
	at := &clock{start}
	withNonce := func(c *dpop.Config) { c.Nonce = true }
	v := verifier(t, at, withNonce)
	c := newClient(t, "ES256")
	verify := func(changes map[string]any) error {
		return v.Verify(c.possession(c.proof(t, at.now, changes)))
	}
	err := verify(nil)
	if reason(err) != policy.ReasonBinding {
		t.Fatalf("without a nonce: %v", err)
	}
	parameters, nonce := v.Challenge(err)
	if !strings.Contains(parameters, `error="use_dpop_nonce"`) || nonce == "" || nonce != v.Nonce() {
		t.Errorf("%s, %q", parameters, nonce)
	}
	fresh := map[string]any{"nonce": nonce}
	if err := verify(fresh); err != nil {
		t.Error(err)
	}
	if err := verify(map[string]any{"nonce": nonce, "iat": 1}); err != nil {
		t.Errorf("a client without a clock: %v", err)
	}
	if err := verify(map[string]any{"nonce": nonce, "iat": nil}); reason(err) != policy.ReasonInvalidClaim {
		t.Errorf("no iat at all: %v", err)
	}
	for _, bad := range []any{"", "x", nonce + "x", nonce[1:], []string{nonce}, 1, json.RawMessage("null")} {
		if err := verify(map[string]any{"nonce": bad}); reason(err) != policy.ReasonBinding {
			t.Errorf("nonce %v: %v", bad, err)
		}
	}
	if err := verifier(t, at, withNonce).Verify(c.possession(c.proof(t, at.now, fresh))); reason(err) != policy.ReasonBinding {
		t.Errorf("the nonce of another server: %v", err)
	}

	used := c.possession(c.proof(t, at.now, fresh))
	if err := v.Verify(used); err != nil {
		t.Fatal(err)
	}
	good := 0
	for ; at.now.Before(start.Add(5 * time.Minute)); at.now = at.now.Add(time.Second) {
		if verify(fresh) == nil {
			good++
		}
		if err := v.Verify(used); reason(err) != policy.ReasonReplayed && reason(err) != policy.ReasonBinding {
			t.Fatalf("a proof twice, after %s: %v", at.now.Sub(start), err)
		}
	}
	if good < 30 || good > 60 {
		t.Errorf("a nonce was good for %d seconds", good)
	}
	if _, next := v.Challenge(nil); next == nonce {
		t.Error("the nonce never changes")
	}
}

// Replicas with one key take each other's nonces, also if their clocks differ by a little.
func TestNonceOfReplica(t *testing.T) {
	t.Parallel()
	here, there := &clock{start}, &clock{start.Add(20 * time.Second)}
	shared := func(c *dpop.Config) {
		c.Nonce, c.NonceKey = true, policy.NewSecret(strings.Repeat("0123456789abcdef", 2))
	}
	a, b := verifier(t, here, shared), verifier(t, there, shared)
	c := newClient(t, "ES256")
	for range 10 {
		if err := a.Verify(c.possession(c.proof(t, here.now, map[string]any{"nonce": b.Nonce()}))); err != nil {
			t.Error(err)
		}
		if err := b.Verify(c.possession(c.proof(t, here.now, map[string]any{"nonce": a.Nonce()}))); err != nil {
			t.Error(err)
		}
		here.now, there.now = here.now.Add(7*time.Second), there.now.Add(7*time.Second)
	}
}

// A new configuration makes no used proof good again, nor sends clients for a new nonce.
func TestPrevious(t *testing.T) {
	t.Parallel()
	at := &clock{start}
	c := newClient(t, "ES256")
	for _, nonce := range []bool{false, true} {
		old := verifier(t, at, func(c *dpop.Config) { c.Nonce = nonce })
		cfg := dpop.Config{Nonce: nonce, ReplaySize: 2000}
		cfg.SetDefaults()
		v, err := dpop.New(cfg, dpop.Deps{Now: at.Now, Previous: old})
		if err != nil {
			t.Fatal(err)
		}
		proof := c.possession(c.proof(t, start, map[string]any{"nonce": old.Nonce()}))
		if err := old.Verify(proof); err != nil {
			t.Fatal(err)
		}
		if err := v.Verify(proof); reason(err) != policy.ReasonReplayed {
			t.Errorf("%v", err)
		}
		if v.Nonce() != old.Nonce() {
			t.Error("another nonce")
		}
	}
}

// RFC 9449 section 7.1: what a challenge says.
func TestChallenge(t *testing.T) {
	t.Parallel()
	v := verifier(t, &clock{start}, nil)
	c, other := newClient(t, "ES256"), newClient(t, "ES256")
	const algs = `, algs="ES256 EdDSA Ed25519 PS256 RS256"`
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"nothing wrong":      {nil, algs},
		"something else":     {errors.New("x"), algs},
		"a refused token":    {authn.Refuse(policy.ReasonExpired, "x"), algs},
		"a bad proof":        {v.Verify(c.possession("x")), `, error="invalid_dpop_proof", error_description="The DPoP proof is not valid."` + algs},
		"another key":        {v.Verify(c.possession(other.proof(t, start, nil))), `, error="invalid_token", error_description="The token is bound to another key."` + algs},
		"wrapped":            {fmt.Errorf("x: %w", v.Verify(c.possession("x"))), `, error="invalid_dpop_proof", error_description="The DPoP proof is not valid."` + algs},
		"could not find out": {v.Verify(&authn.Possession{}), algs},
	} {
		if got, nonce := v.Challenge(tt.err); got != tt.want || nonce != "" {
			t.Errorf("%s: %s, %q", name, got, nonce)
		}
	}
	if v.Nonce() != "" {
		t.Error("a nonce that nobody asks for")
	}
}

// No error shows a token or a proof.
func TestErrorsAreSilent(t *testing.T) {
	t.Parallel()
	v := verifier(t, &clock{start}, nil)
	c := newClient(t, "ES256")
	for _, proof := range []string{"x", c.proof(t, start.Add(-time.Hour), nil), c.proof(t, start, map[string]any{"ath": "secret-secret"}), c.proof(t, start, map[string]any{"htu": "secret-secret"})} {
		p := c.possession(proof)
		p.Token = policy.NewSecret("secret-secret")
		if err := v.Verify(p); err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(fmt.Sprintf("%+v", p), "secret-secret") {
			t.Error(err)
		}
	}
}

// Configurations with one mistake each.
func TestConfig(t *testing.T) {
	t.Parallel()
	for path, change := range map[string]func(*dpop.Config){
		"algorithms[0]": func(c *dpop.Config) { c.Algorithms = []string{"HS256"} },
		"algorithms[1]": func(c *dpop.Config) { c.Algorithms = []string{"ES256", "ES256"} },
		"algorithms[2]": func(c *dpop.Config) { c.Algorithms = []string{"ES256", "RS256", "none"} },
		"max_age":       func(c *dpop.Config) { c.MaxAge = 6 * time.Minute },
		"clock_skew":    func(c *dpop.Config) { c.ClockSkew = -1 },
		"replay_size":   func(c *dpop.Config) { c.ReplaySize = 10 },
		"nonce_key":     func(c *dpop.Config) { c.Nonce, c.NonceKey = true, policy.NewSecret("short-secret") },
	} {
		var cfg dpop.Config
		cfg.SetDefaults()
		change(&cfg)
		var paths []string
		cfg.Check(func(p, message, suggestion string) {
			if paths = append(paths, p); message == "" || suggestion == "" && !strings.HasPrefix(p, "algorithms") {
				t.Errorf("%s: %q, %q", p, message, suggestion)
			}
		})
		if !slices.Equal(paths, []string{path}) {
			t.Errorf("%s: %q", path, paths)
		}
		if _, err := dpop.New(cfg, dpop.Deps{}); err == nil || strings.Contains(err.Error(), "short-secret") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := dpop.New(dpop.Config{NonceKey: policy.NewSecret(strings.Repeat("k", 32))}, dpop.Deps{}); err == nil {
		t.Error("a key for nothing")
	}
	if _, err := dpop.New(dpop.Config{}, dpop.Deps{}); err != nil {
		t.Error(err)
	}
}

// Over any ages and clocks, a proof is good if and only if it is within its window.
func TestWindow(t *testing.T) {
	t.Parallel()
	c := newClient(t, "EdDSA")
	rapid.Check(t, func(rt *rapid.T) {
		second := func(name string, low, high int) time.Duration {
			return time.Duration(rapid.IntRange(low, high).Draw(rt, name)) * time.Second
		}
		age, skew, offset := second("max_age", 1, 300), second("clock_skew", 0, 60), second("iat", -400, 100)
		at := &clock{start}
		v := verifier(t, at, func(cfg *dpop.Config) { cfg.MaxAge, cfg.ClockSkew = age, skew })
		err := v.Verify(c.possession(c.proof(t, start.Add(offset), nil)))
		if good := -offset <= age+skew && offset <= skew; good != (err == nil) || err != nil && reason(err) != policy.ReasonBinding {
			rt.Fatalf("good %v: %v", good, err)
		}
	})
}

// FuzzVerify: whatever the proof says, there is no panic, and every answer about it is a
// 401; one that is accepted says what the request is.
func FuzzVerify(f *testing.F) {
	c := newClient(f, "EdDSA")
	header, _ := json.Marshal(c.header())
	payload, _ := json.Marshal(claims(start))
	f.Add(string(header), string(payload), "/orders/7")
	f.Add(string(header), `{"htu":"https://api.example.com/%61/../%zz?#","htm":"POST","iat":1e9,"jti":"x"}`, "/%")
	f.Add(`{"typ":"dpop+jwt","alg":"RS256","jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"}}`, `{}`, "")
	f.Add(`{"typ":"dpop+jwt","alg":"none"}`, `{}`, "*")
	at := &clock{start}
	v := verifier(f, at, nil)
	f.Fuzz(func(t *testing.T, header, payload, path string) {
		p := c.possession(c.signText(t, header, payload))
		p.Path = path
		err := v.Verify(p)
		if err != nil && reason(err).Status() != 401 {
			t.Fatalf("%q %q: %v", header, payload, err)
		}
		if err == nil {
			if again := v.Verify(p); reason(again) != policy.ReasonReplayed {
				t.Fatalf("%q is good twice: %v", payload, again)
			}
		}
		_ = v.Verify(c.possession(payload)) // and as it is
	})
}

// The cost of a proof beside the bare signature that it holds.
func BenchmarkVerify(b *testing.B) {
	for _, alg := range []string{"ES256", "EdDSA", "RS256", "PS256"} {
		b.Run(alg, func(b *testing.B) {
			c := newClient(b, alg)
			at := &clock{start}
			v := verifier(b, at, nil)
			proofs := make([]*authn.Possession, 512)
			for i := range proofs {
				proofs[i] = c.possession(c.proof(b, start, nil))
			}
			b.ReportAllocs()
			whole, bare := time.Hour, time.Hour
			i := 0
			for b.Loop() {
				if i == len(proofs) { // all are used: forget them
					b.StopTimer()
					v, i = verifier(b, at, nil), 0
					b.StartTimer()
				}
				p := proofs[i]
				i++
				begin := time.Now()
				if err := v.Verify(p); err != nil {
					b.Fatal(err)
				}
				whole = min(whole, time.Since(begin))
				text := p.Proof[:strings.LastIndexByte(p.Proof, '.')]
				signature, _ := base64.RawURLEncoding.DecodeString(p.Proof[len(text)+1:])
				begin = time.Now()
				if err := golangjwt.GetSigningMethod(alg).Verify(text, signature, c.private.Public()); err != nil {
					b.Fatal(err)
				}
				bare = min(bare, time.Since(begin))
			}
			b.ReportMetric(float64(whole.Nanoseconds()), "ns/proof")
			b.ReportMetric(float64(whole)/float64(bare), "x-verification")
		})
	}
}
