package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// G-13: what each RFC says of the bearer of a token, through both doors of a server
// that runs. One server does for all. What the RFCs say of formats is tested beside what
// reads them: server/authn/jwt, server/authn/introspect, server/authn/dpop, server/jose;
// RFC 8693's token endpoint in TestTokensAreExchanged.
func TestKindsRFCs(t *testing.T) {
	t.Parallel()
	lab := startKinds(t)
	for name, test := range map[string]func(*testing.T, *kindsLab){
		"RFC6750": rfc6750, "RFC7519": rfc7519, "RFC7617": rfc7617, "RFC7662": rfc7662, "RFC8705": rfc8705,
		"RFC9068": rfc9068, "RFC7235 and RFC9110": rfc9110, "RFC9440": rfc9440, "RFC9449": rfc9449, "RFC9470": rfc9470, "RFC9728": rfc9728,
		"RFC8693": rfc8693, "one answer": oneAnswer, "the end": endsInTheCache,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, lab) })
	}
}

// G-13, RFC 6750: sections 2 (how a token is sent) and 3 (how a deny is told).
func rfc6750(t *testing.T, lab *kindsLab) {
	good := lab.jwt.token(claims{"sub": "ann", "scope": "write"})
	late := lab.jwt.token(claims{"sub": "ann", "exp": time.Now().Add(-time.Hour).Unix()})
	for name, c := range map[string]struct {
		q      request
		status int
		reason string
		bearer string // of WWW-Authenticate, after realm and resource_metadata
	}{
		"2.1 the header field":                         {get("/", "authorization", "Bearer "+good), 200, "allowed", ""},
		"2.1 the scheme's case":                        {get("/", "authorization", "bEARER "+good), 200, "allowed", ""},
		"2.1 not b64token":                             {get("/", "authorization", "Bearer a,b"), 401, "credential_malformed", `, error="invalid_token"`},
		"2.1 no token":                                 {get("/", "authorization", "Bearer"), 401, "credential_malformed", `, error="invalid_token"`},
		"2.2 not in a form":                            {get("/", "content-type", "application/x-www-form-urlencoded").with("POST"), 401, "credential_missing", ""},
		"2.3 not in the query":                         {get("/?access_token=" + good), 401, "credential_in_query", `, error="invalid_request"`},
		"2 one way at a time":                          {get("/?access_token="+good, bearer(good)...), 401, "credential_in_query", `, error="invalid_request"`},
		"2 one token at a time":                        {get("/", "authorization", "Bearer "+good, "authorization", "Bearer "+good), 400, "request_invalid", ""},
		"3 nothing: no error":                          {get("/"), 401, "credential_missing", ""},
		"3.1 expired":                                  {get("/", bearer(late)...), 401, "expired", `, error="invalid_token"`},
		"3.1 unknown":                                  {get("/", bearer("nonsense")...), 401, "credential_unknown", `, error="invalid_token"`},
		"3.1, O-02, CACHE-02: exactly what is missing": {get("/scoped/", bearer(good)...), 403, "insufficient_scope", `, error="insufficient_scope", error_description="The credential lacks a scope.", scope="read pay"`},
		"3 scopes: what it would take":                 {get("/scoped/"), 401, "credential_missing", `, scope="read write pay"`},
	} {
		a := lab.expect(t, c.q, c.status, c.reason)
		challenge := a.header("www-authenticate")
		const prefix = `Bearer realm="postern", resource_metadata="https://api.test/.well-known/oauth-protected-resource"`
		switch {
		case c.status == 200 || c.status == 400:
			if challenge != "" {
				t.Errorf("%s: the challenge %s", name, challenge)
			}
		case c.bearer == "" && !strings.HasPrefix(challenge, prefix+" | "), !strings.HasPrefix(challenge, prefix+c.bearer):
			t.Errorf("%s: %s, want %s", name, challenge, prefix+c.bearer)
		}
	}
}

// G-13, RFC 7519 and RFC 8725: what a token says, and in which words.
func rfc7519(t *testing.T, lab *kindsLab) {
	now := time.Now()
	with := func(c claims) string { return lab.jwt.token(c) }
	none := segment(map[string]any{"alg": "none"}) + "." + segment(claims{"iss": lab.jwt.url, "sub": "ann", "aud": "api", "exp": now.Add(time.Hour).Unix()}) + "."
	for name, c := range map[string]struct {
		token  string
		status int
		reason string
	}{
		"4.1.1 iss, character by character": {with(claims{"sub": "ann", "iss": "https://ISSUER.test"}), 401, "issuer_untrusted"},
		"4.1.2 sub is a string":             {with(claims{"sub": 7}), 401, "invalid_claim"},
		"4.1.2 no sub":                      {with(claims{}), 401, "invalid_claim"},
		"4.1.3 aud, one of several":         {with(claims{"sub": "ann", "aud": []string{"x", "api"}}), 200, "allowed"},
		"4.1.3 aud, none of them":           {with(claims{"sub": "ann", "aud": []string{"x", "API"}}), 401, "invalid_audience"},
		"4.1.4 exp with a fraction":         {with(claims{"sub": "ann", "exp": float64(now.Unix()) + 600.5}), 200, "allowed"},
		"4.1.4 exp is no text":              {with(claims{"sub": "ann", "exp": "4102444800"}), 401, "invalid_claim"},
		"4.1.4 no exp":                      {with(claims{"sub": "ann", "exp": nil}), 401, "invalid_claim"},
		"4.1.5 nbf":                         {with(claims{"sub": "ann", "nbf": now.Add(time.Hour).Unix()}), 401, "not_yet_valid"},
		"4 a claim nobody knows":            {with(claims{"sub": "ann", "unheard-of": []any{1, nil}}), 200, "allowed"},
		"4 names count by case":             {with(claims{"SUB": "ann"}), 401, "invalid_claim"},
		"5.1 typ":                           {lab.jwt.sign(map[string]any{"alg": "EdDSA", "kid": "k1", "typ": "JWT"}, claims{"sub": "ann"}), 200, "allowed"},
		"5.1 typ of a logout token":         {lab.jwt.sign(map[string]any{"alg": "EdDSA", "kid": "k1", "typ": "logout+jwt"}, claims{"sub": "ann"}), 401, "wrong_token_type"},
		"6 unsecured":                       {none, 401, "credential_malformed"},
		"7515 4.1.11 crit":                  {lab.jwt.sign(map[string]any{"alg": "EdDSA", "kid": "k1", "crit": []string{"x"}, "x": 1}, claims{"sub": "ann"}), 401, "credential_malformed"},
		"8725 2.8 the key's own id":         {lab.jwt.sign(map[string]any{"alg": "EdDSA", "kid": "k2"}, claims{"sub": "ann"}), 401, "signature_invalid"},
		"M-06 exp less iat, over the cap":   {with(claims{"sub": "ann", "exp": now.Add(3 * time.Hour).Unix()}), 401, "lifetime_exceeded"},
		"M-06 no iat, where a cap needs it": {with(claims{"sub": "ann", "iat": nil}), 401, "invalid_claim"},
	} {
		if a := lab.ask(t, get("/", bearer(c.token)...)); a.status != c.status || a.reason != c.reason {
			t.Errorf("%s: %v, want %d %s", name, a, c.status, c.reason)
		}
	}
}

// TIMING-06: what is wrong with a signature is not told.
func oneAnswer(t *testing.T, lab *kindsLab) {
	good := lab.jwt.token(claims{"sub": "ann"})
	first := lab.ask(t, get("/", bearer(good[:len(good)-8]+"AAAAAAAA")...))
	for name, token := range map[string]string{
		"unknown kid":    lab.jwt.sign(map[string]any{"alg": "EdDSA", "kid": "another"}, claims{"sub": "ann"}),
		"unknown issuer": lab.jwt.token(claims{"sub": "ann", "iss": "https://nobody.test"}),
		"not a token":    "eyJ.x.y",
		"unknown key":    "pst_key_nonsense",
		"opaque":         "opaque-nonsense",
	} {
		if a := lab.ask(t, get("/", bearer(token)...)); a.status != 401 || a.body != first.body || fmt.Sprint(a.headers) != fmt.Sprint(first.headers) {
			t.Errorf("%s: %v %s, another gets %s", name, a.headers, a.body, first.body)
		}
	}
}

// CACHE-09: what is remembered of a token ends when the token does, however often it is
// asked for.
func endsInTheCache(t *testing.T, lab *kindsLab) {
	for name, sign := range map[string]func(claims) string{
		"signed": func(c claims) string {
			return lab.strict.sign(map[string]any{"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}, c)
		},
		"opaque": lab.oauth.opaque,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			end := time.Unix(time.Now().Add(3*time.Second).Unix(), 0)
			q := get("/", bearer(sign(claims{"sub": "ann", "client_id": "web", "jti": "short", "exp": end.Unix()}))...)
			lab.expect(t, q, 200, "allowed")
			if a := lab.denied(t, q, end); a.reason != "expired" || time.Now().Before(end) {
				t.Errorf("%v, %v before its end", a, time.Until(end))
			}
			lab.expect(t, q, 401, "expired")
		})
	}
}

// G-13, B-01, B-02, RFC 7617 section 2: of Basic the challenge has realm and charset.
func rfc7617(t *testing.T, lab *kindsLab) {
	office := func(headers ...string) request {
		q := get("/", headers...)
		q.source = "198.51.100.7"
		return q
	}
	a := lab.expect(t, office(), 401, "credential_missing")
	if !strings.Contains(a.header("www-authenticate"), ` | Basic realm="postern", charset="UTF-8"`) {
		t.Error(a.header("www-authenticate"))
	}
	lab.expect(t, office(basicOf("ann", annsPassword)...), 200, "allowed")
	lab.expect(t, office(basicOf("ann", annsPassword+":")...), 401, "credential_unknown")
	lab.expect(t, office("authorization", "Basic "+base64.RawURLEncoding.EncodeToString([]byte("ann>?"+annsPassword))), 401, "credential_malformed")
}

// G-13, O-07, INTROSPECT-01, INTROSPECT-02, RFC 7662: the issuer is asked by a form, by a client that proves itself
// (see oauthServer.introspect, which refuses everything else); "not active" is no reason
// to tell anybody; and no answer is not "not active" (section 2.3).
func rfc7662(t *testing.T, lab *kindsLab) {
	token := lab.oauth.opaque(claims{"sub": "ann", "scope": "read write", "client_id": "web", "tenant": "acme"})
	unknown := "opaque-that-nobody-issued"
	lab.hide(token, unknown)
	a := lab.expect(t, get("/", bearer(token)...), 200, "allowed")
	if s := a.seen(t); s.ID != "ann" || s.Kind != "user" || fmt.Sprint(s.Scopes) != "[read write]" || s.Tenant != "acme" || s.Assurance != 3 || a.method != "oauth" || a.issuer != lab.oauth.url {
		t.Errorf("%v: %+v", a, s)
	}
	for name, c := range map[string]struct {
		about  claims
		status int
		reason string
	}{
		"2.2 exp":                   {claims{"sub": "ann", "exp": time.Now().Add(-time.Hour).Unix()}, 401, "expired"},
		"2.2 nbf":                   {claims{"sub": "ann", "nbf": time.Now().Add(time.Hour).Unix()}, 401, "not_yet_valid"},
		"2.2 aud":                   {claims{"sub": "ann", "aud": "other"}, 401, "invalid_audience"},
		"2.2 iss":                   {claims{"sub": "ann", "iss": "https://other.test"}, 401, "issuer_untrusted"},
		"2.2 a client's own":        {claims{"client_id": "batch"}, 200, "allowed"},
		"4 refresh token":           {claims{"sub": "ann", "token_type": "refresh_token"}, 401, "wrong_token_type"},
		"2.2 active is a boolean":   {claims{"sub": "ann", "active": "true"}, 503, "dependency_unavailable"},
		"2.2 active is there":       {claims{"sub": "ann", "active": nil}, 503, "dependency_unavailable"},
		"2.2 active: false":         {claims{"active": false}, 401, "credential_unknown"},
		"8705 and 9449: bound, x5t": {claims{"sub": "ann", "cnf": claims{"x5t#S256": lab.web.Thumbprint}}, 401, "binding"},
	} {
		q := get("/", bearer(lab.oauth.opaque(c.about))...)
		if a := lab.ask(t, q); a.status != c.status || a.reason != c.reason {
			t.Errorf("%s: %v, want %d %s", name, a, c.status, c.reason)
		}
	}
	// What a token is not is not told: the two answers do not differ in a byte.
	one, other := lab.ask(t, get("/", bearer(unknown)...)), lab.ask(t, get("/", bearer(lab.oauth.opaque(claims{"active": false}))...))
	if one.status != 401 || one.body != other.body || fmt.Sprint(one.headers) != fmt.Sprint(other.headers) {
		t.Errorf("%v %s\n%v %s", one.headers, one.body, other.headers, other.body)
	}
}

// G-13, C-06, RFC 8705 section 3: a token that names a certificate is good with that
// certificate alone, whether it is signed or the issuer says so.
func rfc8705(t *testing.T, lab *kindsLab) {
	other := lab.pki.issue(t, "--spiffe", "spiffe://prod.test/other", "--name", "other-8705")
	for name, token := range map[string]string{
		"signed": lab.jwt.token(claims{"sub": "ann", "cnf": claims{"x5t#S256": lab.web.Thumbprint}}),
		"opaque": lab.oauth.opaque(claims{"sub": "ann", "cnf": claims{"x5t#S256": lab.web.Thumbprint}}),
	} {
		if a := lab.expect(t, get("/", plus(bearer(token), lab.web.xfcc())...), 200, "allowed"); a.principal != "ann" || a.seen(t).Peer != lab.web.spiffe {
			t.Errorf("%s: %v", name, a)
		}
		a := lab.expect(t, get("/", plus(bearer(token), other.xfcc())...), 401, "binding")
		if !strings.Contains(a.header("www-authenticate"), `error="invalid_token"`) {
			t.Error(a.header("www-authenticate"))
		}
		lab.expect(t, get("/", bearer(token)...), 401, "binding")
		lab.stranger.expect(t, get("/", plus(bearer(token), lab.web.xfcc())...), 401, "binding") // whom nobody believes
	}
	for name, cnf := range map[string]any{
		"of no bytes": claims{"x5t#S256": ""}, "SHA-1": claims{"x5t": "x"}, "hex": claims{"x5t#S256": lab.web.Fingerprint},
		"nothing known": claims{"kid": "k"}, "no object": "x", "padded": claims{"x5t#S256": lab.web.Thumbprint + "="},
	} {
		token := lab.jwt.token(claims{"sub": "ann", "cnf": cnf})
		if a := lab.ask(t, get("/", plus(bearer(token), lab.web.xfcc())...)); a.status != 401 {
			t.Errorf("cnf %s: %v", name, a)
		}
	}
}

// G-13, O-06, O-08, M-01, RFC 9068: access tokens say that they are (typ), and have
// what section 2.2 asks for.
func rfc9068(t *testing.T, lab *kindsLab) {
	full := claims{"sub": "ann", "client_id": "web", "jti": "t-1", "scope": "read"}
	without := func(name string, value any) claims {
		c := claims{}
		for k, v := range full {
			c[k] = v
		}
		c[name] = value
		return c
	}
	sign := func(typ string, c claims) string {
		return lab.strict.sign(map[string]any{"alg": "EdDSA", "kid": "k1", "typ": typ}, c)
	}
	for name, c := range map[string]struct {
		token  string
		status int
		reason string
	}{
		"2.1 at+jwt":           {sign("at+jwt", full), 200, "allowed"},
		"2.1 the long name":    {sign("application/at+jwt", full), 200, "allowed"},
		"2.1 another type":     {sign("JWT", full), 401, "wrong_token_type"},
		"2.1 no type":          {lab.strict.token(full), 401, "wrong_token_type"},
		"2.2 client_id":        {sign("at+jwt", without("client_id", nil)), 401, "invalid_claim"},
		"2.2 jti":              {sign("at+jwt", without("jti", nil)), 401, "invalid_claim"},
		"2.2 iat":              {sign("at+jwt", without("iat", nil)), 401, "invalid_claim"},
		"2.2 sub":              {sign("at+jwt", without("sub", nil)), 401, "invalid_claim"},
		"4 audience":           {sign("at+jwt", without("aud", "web")), 401, "invalid_audience"},
		"O-08 an ID token":     {lab.jwt.token(claims{"sub": "ann", "nonce": "n", "at_hash": "h", "azp": "web"}), 401, "wrong_token_type"},
		"O-06 a refresh token": {lab.jwt.token(claims{"sub": "ann", "type": "refresh"}), 401, "wrong_token_type"},
		"M-01 a client's own":  {sign("at+jwt", without("sub", "web")), 200, "allowed"},
		"2.2.1 auth_time, acr": {sign("at+jwt", without("auth_time", "yesterday")), 401, "invalid_claim"},
	} {
		a := lab.ask(t, get("/", bearer(c.token)...))
		if a.status != c.status || a.reason != c.reason {
			t.Errorf("%s: %v, want %d %s", name, a, c.status, c.reason)
		}
		want := map[string]string{"2.1 at+jwt": "user", "M-01 a client's own": "service"}[name]
		if got := a.seen(t).Kind; want != "" && got != want {
			t.Errorf("%s: a %s", name, got)
		}
	}
}

// G-13, T-01, RFC 9110 section 11 (once RFC 7235): a 401 has one challenge for each
// scheme that its route takes, and for no other.
func rfc9110(t *testing.T, lab *kindsLab) {
	const metadata = `, resource_metadata="https://api.test/.well-known/oauth-protected-resource"`
	const algs = `, algs="ES256 EdDSA Ed25519 PS256 RS256"`
	for path, want := range map[string]string{
		"/":        `Bearer realm="postern"` + metadata + ` | DPoP realm="postern"` + metadata + algs + ` | ApiKey realm="postern" | Basic realm="postern", charset="UTF-8"`,
		"/keys/":   `Bearer realm="postern"` + metadata + ` | ApiKey realm="postern"`,
		"/either/": `Bearer realm="postern"` + metadata + ` | DPoP realm="postern"` + metadata + algs + ` | ApiKey realm="postern"`,
	} {
		a := lab.expect(t, get(path), 401, "credential_missing")
		if got := a.header("www-authenticate"); got != want {
			t.Errorf("%s:\n%s, want\n%s", path, got, want)
		}
		for _, q := range []request{get(path, "authorization", "Negotiate abc"), get(path, "authorization", "SAML abc"), get(path, "authorization", `Digest username="a"`)} {
			if a := lab.expect(t, q, 401, "unsupported_scheme"); !strings.Contains(a.header("www-authenticate"), `realm="postern"`) {
				t.Errorf("%s without a challenge", path)
			}
		}
	}
	// A route that takes certificates alone has no scheme to offer, and 401 needs one.
	if a := lab.expect(t, get("/certs/"), 401, "credential_missing"); a.header("www-authenticate") == "" {
		t.Error("401 without a challenge")
	}
}

// G-13, C-01, RFC 9440: Client-Cert is the same evidence in another field.
func rfc9440(t *testing.T, lab *kindsLab) {
	field := lab.web.clientCert()
	if a := lab.expect(t, get("/certs/", field...), 200, "allowed"); a.principal != lab.web.spiffe {
		t.Error(a)
	}
	lab.expect(t, get("/certs/", plus(field, lab.web.xfcc())...), 200, "allowed")
	other := lab.pki.issue(t, "--spiffe", "spiffe://prod.test/other", "--name", "other-9440")
	lab.expect(t, get("/certs/", plus(field, other.xfcc())...), 401, "multiple_credentials")
	lab.expect(t, get("/certs/", plus(field, field)...), 401, "multiple_credentials")
	lab.expect(t, get("/certs/", "client-cert", strings.Trim(field[1], ":")), 401, "credential_malformed")
	lab.stranger.expect(t, get("/certs/", field...), 401, "credential_missing")
}

// G-13, RFC 9449 sections 4.3, 7.1 and 7.2: a token that is bound to a key is good with
// a proof for this request alone, once, and in no other way.
func rfc9449(t *testing.T, lab *kindsLab) {
	h, thief := newHolder(t), newHolder(t)
	plain := lab.jwt.token(claims{"sub": "ann"})
	for name, token := range map[string]string{
		"signed": lab.jwt.token(claims{"sub": "ann", "cnf": h.bind()}), "opaque": lab.oauth.opaque(claims{"sub": "ann", "cnf": h.bind()}),
	} {
		lab.hide(token[len(token)-26:])
		shows := func(changes claims) func() request { return func() request { return h.shows("/x", token, changes) } }
		if a := lab.fresh(t, shows(nil), 200, "allowed"); a.principal != "ann" {
			t.Errorf("%s: %v", name, a)
		}
		lab.fresh(t, func() request {
			q := h.shows("/x", token, nil)
			q.path += "?page=2" // 4.2: htu is without query and fragment
			return q
		}, 200, "allowed")
		lab.fresh(t, shows(claims{"htu": "https://API.test:443/x"}), 200, "allowed")
		for wrong, changes := range map[string]claims{
			"htm": {"htm": "POST"}, "htu host": {"htu": "https://other.test/x"}, "htu path": {"htu": "https://api.test/y"}, "htu scheme": {"htu": "http://api.test/x"},
			"iat late": {"iat": time.Now().Add(-time.Hour).Unix()}, "iat early": {"iat": time.Now().Add(time.Hour).Unix()}, "no iat": {"iat": nil},
			"ath": {"ath": digest(plain)}, "no ath": {"ath": nil}, "no jti": {"jti": nil}, "empty jti": {"jti": ""},
		} {
			a, other := lab.askEnvoy(t, shows(changes)()), lab.askPostern(t, shows(changes)())
			if a.status != 401 || other.status != 401 || !strings.Contains(a.header("www-authenticate"), `error="invalid_dpop_proof"`) {
				t.Errorf("%s, %s: %v %s", name, wrong, a, a.header("www-authenticate"))
			}
		}
		lab.fresh(t, func() request { return thief.shows("/x", token, nil) }, 401, "binding") // the thief's own key
		lab.expect(t, get("/x", bearer(token)...), 401, "binding")                            // 7.2: as Bearer
		lab.expect(t, get("/x", "authorization", "DPoP "+token), 401, "binding")
		twice := h.shows("/x", token, nil)
		twice.headers = append(twice.headers, twice.headers[1])
		if a := lab.ask(t, twice); a.status != 400 {
			t.Errorf("two proofs: %v", a)
		}
		// Once, whichever door saw it first (section 11.1).
		again := h.shows("/x", token, nil)
		if a := lab.askEnvoy(t, again); !a.allowed() {
			t.Error(a)
		}
		for _, a := range []answer{lab.askPostern(t, again), lab.askEnvoy(t, again)} {
			if a.status != 401 || a.reason != "replayed" {
				t.Errorf("%s, again: %v", name, a)
			}
		}
	}
	lab.fresh(t, func() request { return h.shows("/x", plain, nil) }, 401, "binding") // bound to nothing
	a := lab.fresh(t, shows(h, lab.jwt.token(claims{"sub": "ann", "cnf": h.bind()})), 200, "allowed")
	if len(a.removed) == 0 || !strings.Contains(strings.Join(a.removed, " "), "dpop") {
		t.Errorf("the proof goes upstream: %v", a.removed)
	}
}

func shows(h holder, token string) func() request {
	return func() request { return h.shows("/x", token, nil) }
}

// G-04, G-13, RFC 9470 section 3: who was not authenticated well enough, or too long
// ago, is told what it takes.
func rfc9470(t *testing.T, lab *kindsLab) {
	now := time.Now()
	const stepUp = `error="insufficient_user_authentication", error_description="A stronger or more recent authentication is required."`
	for name, c := range map[string]struct {
		path      string
		c         claims
		status    int
		challenge string
	}{
		"amr: password only": {"/otp/", claims{"sub": "ann", "amr": []string{"pwd"}}, 401, stepUp + `, acr_values="otp"`},
		"amr: both":          {"/otp/", claims{"sub": "ann", "amr": []string{"pwd", "otp"}}, 200, ""},
		"amr: none":          {"/otp/", claims{"sub": "ann"}, 401, stepUp + `, acr_values="otp"`},
		"acr and age":        {"/gold/", claims{"sub": "ann", "acr": "urn:gold", "auth_time": now.Unix()}, 200, ""},
		"another acr":        {"/gold/", claims{"sub": "ann", "acr": "urn:silver", "auth_time": now.Unix()}, 401, stepUp + `, acr_values="urn:gold", max_age="300"`},
		"too long ago":       {"/gold/", claims{"sub": "ann", "acr": "urn:gold", "auth_time": now.Add(-time.Hour).Unix()}, 401, stepUp + `, acr_values="urn:gold", max_age="300"`},
		"nobody knows when":  {"/gold/", claims{"sub": "ann", "acr": "urn:gold"}, 401, stepUp + `, acr_values="urn:gold", max_age="300"`},
	} {
		for kind, token := range map[string]string{"signed": lab.jwt.token(c.c), "opaque": lab.oauth.opaque(c.c)} {
			reason := map[int]string{200: "allowed", 401: "insufficient_user_authentication"}[c.status]
			a := lab.expect(t, get(c.path, bearer(token)...), c.status, reason)
			if c.status == 401 && !strings.Contains(a.header("www-authenticate"), c.challenge) {
				t.Errorf("%s, %s: %s", name, kind, a.header("www-authenticate"))
			}
		}
	}
}

// G-13, RFC 9728 section 5.1: a challenge says where the resource describes itself, and
// each route can have its own description.
func rfc9728(t *testing.T, lab *kindsLab) {
	for path, want := range map[string]string{
		"/": "https://api.test/.well-known/oauth-protected-resource", "/described/": "https://orders.test/.well-known/oauth-protected-resource",
	} {
		for _, q := range []request{get(path), get(path, bearer("nonsense")...), get(path, bearer(lab.jwt.token(claims{"sub": "ann", "aud": "x"}))...)} {
			a := lab.ask(t, q)
			challenges := strings.Split(a.header("www-authenticate"), " | ")
			for _, scheme := range []string{"Bearer", "DPoP"} {
				n := 0
				for _, c := range challenges {
					if strings.HasPrefix(c, scheme+" ") && strings.Contains(c, `resource_metadata="`+want+`"`) {
						n++
					}
				}
				if a.status != 401 || n != 1 {
					t.Errorf("%s, %s: %v", path, scheme, challenges)
				}
			}
		}
	}
}

// G-13, O-03, RFC 8693 section 4.1: of a delegated token, who it is about and who acts
// are both known, to the policy, to the one who asked, and in the log.
func rfc8693(t *testing.T, lab *kindsLab) {
	act := claims{"sub": "agent-7", "act": claims{"sub": "orchestrator"}}
	for name, token := range map[string]string{
		"signed": lab.jwt.token(claims{"sub": "ann", "act": act}), "opaque": lab.oauth.opaque(claims{"sub": "ann", "act": act}),
	} {
		a := lab.expect(t, get("/", bearer(token)...), 200, "allowed")
		if s := a.seen(t); s.ID != "ann" || len(s.Actors) != 2 || s.Actors[0].ID != "agent-7" || s.Actors[1].ID != "orchestrator" {
			t.Errorf("%s: %+v", name, s)
		}
		eventually(t, "the decision is in the log", func() bool {
			for _, e := range lab.log.entries(t, "decision") {
				if e["decision_id"] == a.id {
					if raw, _ := json.Marshal(e["actors"]); e["principal"] != "ann" || string(raw) != `["agent-7","orchestrator"]` {
						t.Errorf("%s: the log says %s", name, e[""])
					}
					return true
				}
			}
			return false
		})
		status, body := lab.fetch(t, "/v1/decisions/"+a.id)
		if status == http.StatusOK && !strings.Contains(body, "orchestrator") {
			t.Errorf("%s: the explanation is %s", name, body)
		}
	}
	for name, act := range map[string]any{"no object": "agent-7", "nobody": claims{}, "a number": claims{"sub": 7}} {
		if a := lab.ask(t, get("/", bearer(lab.jwt.token(claims{"sub": "ann", "act": act}))...)); a.status != 401 {
			t.Errorf("act is %s: %v", name, a)
		}
	}
}
