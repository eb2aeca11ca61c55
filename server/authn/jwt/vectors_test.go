package jwt_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	golangjwt "github.com/golang-jwt/jwt/v5"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/jwt"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/vectortest"
)

// fixture is the world that the vectors assume.
type fixture struct {
	Issuers []struct {
		Issuer string
		Algs   []string
		JWKS   json.RawMessage
		Kid    string
		Secret string `json:"secret_b64url"`
	}
	Audiences     []string          `json:"audiences_accepted"`
	Leeway        int               `json:"leeway_seconds"`
	MaxTokenBytes int               `json:"max_token_bytes"`
	PrivateKeys   map[string]string `json:"private_keys_pem"`
}

func readFixture(t testing.TB) (f fixture) {
	t.Helper()
	if err := json.Unmarshal(vectortest.Read(t, "jwt/fixture.json"), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// authenticator is configured as the vectors assume.
func (f fixture) authenticator(t testing.TB) *jwt.Authenticator {
	t.Helper()
	var configs []jwt.Config
	keys := map[string]jose.Keys{}
	for _, i := range f.Issuers {
		c := jwt.Config{
			URL: i.Issuer, Audiences: f.Audiences, Algorithms: i.Algs,
			ClockSkew: time.Duration(f.Leeway) * time.Second, MaxTokenBytes: f.MaxTokenBytes,
		}
		if i.Secret != "" {
			c.Secret, c.SecretEncoding, c.SecretID = policy.NewSecret(i.Secret), jwt.EncodingBase64URL, i.Kid
		} else {
			set, warnings, err := jose.ParseKeySet(i.JWKS)
			if err != nil || len(warnings) > 0 {
				t.Fatal(i.Issuer, warnings, err)
			}
			keys[i.Issuer] = set
		}
		configs = append(configs, c)
	}
	a, err := jwt.New(configs, jwt.Deps{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// sign makes a token of the exact header and payload text.
func (f fixture) sign(t testing.TB, name, alg, header, payload string) string {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	if name == "none" {
		return text + "."
	}
	key, ok := f.PrivateKeys[name]
	if !ok {
		key = f.PrivateKeys[name+" (attacker)"]
	}
	block, _ := pem.Decode([]byte(key))
	if block == nil {
		t.Fatalf("the fixture has no key %q", name)
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := golangjwt.GetSigningMethod(alg).Sign(text, private)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// recipe builds a token that is too big to be written down.
type recipe struct {
	Repeat, Prefix, Suffix string
	Count, Depth           int
	Header                 json.RawMessage
	Payload                string
	PayloadNest            string `json:"payload_nest"`
	HeaderNest             string `json:"header_nest"`
	PayloadKeys            int    `json:"payload_keys"`
	PayloadNumberDigits    int    `json:"payload_number_digits"`
	AudEntries             int    `json:"aud_entries"`
	KidLen                 int    `json:"kid_len"`
	Sign                   string
}

const aliceClaims = `"iss":"https://issuer-a.test/","sub":"alice","exp":4102444800,"iat":1704067200,"jti":"j-1","scope":"read"`

func (f fixture) build(t testing.TB, r recipe) string {
	if r.Repeat != "" {
		return r.Prefix + strings.Repeat(r.Repeat, r.Count) + r.Suffix
	}
	nested := strings.Repeat("[", r.Depth) + strings.Repeat("]", r.Depth)
	header, payload := string(r.Header), r.Payload
	switch {
	case r.PayloadNest != "":
		payload = `{` + aliceClaims + `,"aud":"postern-test","x":` + nested + `}`
	case r.HeaderNest != "":
		header = `{"alg":"RS256","kid":"a-rsa-1","x":` + nested + `}`
	case r.PayloadKeys > 0:
		var b strings.Builder
		for i := range r.PayloadKeys {
			fmt.Fprintf(&b, `,"k%d":%d`, i, i)
		}
		payload = `{` + aliceClaims + `,"aud":"postern-test"` + b.String() + `}`
	case r.PayloadNumberDigits > 0:
		payload = `{` + aliceClaims + `,"aud":"postern-test","x":` + strings.Repeat("9", r.PayloadNumberDigits) + `}`
	case r.AudEntries > 0:
		payload = `{` + aliceClaims + `,"aud":[` + strings.Repeat(`"x",`, r.AudEntries) + `"postern-test"]}`
	case r.KidLen > 0:
		header = `{"alg":"RS256","kid":"` + strings.Repeat("k", r.KidLen) + `"}`
	default:
		t.Fatalf("a recipe that this test does not know: %+v", r)
	}
	return f.sign(t, r.Sign, "RS256", header, payload)
}

// J-01 J-02 J-03 J-04 J-08 J-12 O-02 O-06 O-08 M-06 G-13: every vector of
// jwt/vectors.jsonl, of both levels, against the Authenticator.
func TestVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, Class, Level, Expect, Why, Token, Header, Payload, Principal string
		TokenB64                                                         string  `json:"token_b64"`
		SignedWith                                                       string  `json:"signed_with"`
		Recipe                                                           *recipe `json:"token_recipe"`
	}
	f := readFixture(t)
	a := f.authenticator(t)
	trap, connections := listen(t)

	passed, failed, reasons := map[string]int{}, map[string]int{}, map[string]int{}
	total := 0
	for _, v := range vectortest.Lines[vector](t, "jwt/vectors.jsonl") {
		total++
		token := v.Token
		switch {
		case v.Recipe != nil:
			token = f.build(t, *v.Recipe)
		case v.TokenB64 != "":
			b, err := base64.StdEncoding.DecodeString(v.TokenB64)
			if err != nil {
				t.Fatal(v.ID, err)
			}
			token = string(b)
		case strings.Contains(v.Header, "{TRAP}"):
			token = f.sign(t, "x-rsa", "RS256", strings.ReplaceAll(v.Header, "{TRAP}", trap), v.Payload)
		}
		proof, err := authenticateBearer(a, token)
		reason := "allowed"
		if err != nil {
			reason = outcome(t, v.ID, err)
		}
		reasons[v.Class+" "+reason]++
		if problem := judge(t, a, v.Expect, v.Principal, proof, err); problem != "" {
			failed[v.Class]++
			t.Errorf("%s (%s, %s): want %.40s, %s", v.ID, v.Level, v.Why, v.Expect, problem)
			continue
		}
		passed[v.Class]++
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("a token made us connect %d times", n)
	}
	if total != 485 {
		t.Errorf("%d vectors, not 485", total)
	}
	for _, class := range slices.Sorted(maps.Keys(passed)) {
		t.Logf("%-10s passed %3d failed %d", class, passed[class], failed[class])
	}
	for _, r := range slices.Sorted(maps.Keys(reasons)) {
		t.Logf("%-40s %d", r, reasons[r])
	}
}

// judge says what is wrong with an answer, or nothing.
func judge(t *testing.T, a *jwt.Authenticator, expect, principal string, proof *authn.Proof, err error) string {
	id := func() string { return proof.Principal.Issuer + "|" + proof.Principal.ID }
	switch {
	case expect == "deny":
		if err == nil {
			return "got " + id()
		}
	case expect == "allow":
		if err != nil {
			return "got " + err.Error()
		}
		if id() != principal {
			return "got " + id()
		}
	case expect == "allow-or-deny-no-fetch", expect == "no-crash":
	case strings.HasPrefix(expect, "not-principal-"):
		not := strings.TrimPrefix(expect, "not-principal-")
		if err == nil && (id() == not || proof.Principal.ID == not) {
			return "got " + id()
		}
	case expect == "no-scope-admin":
		if err == nil && slices.Contains(proof.Principal.Scopes, "admin") {
			return "got the scope"
		}
	case expect == "scope-admin", expect == "scope-admin-or-deny":
		if err != nil && expect == "scope-admin" {
			return "got " + err.Error()
		}
		if err == nil && !slices.Contains(proof.Principal.Scopes, "admin") {
			return fmt.Sprintf("got %q", proof.Principal.Scopes)
		}
	case strings.HasPrefix(expect, "same-identity-as:"):
		other, otherErr := authenticateBearer(a, strings.TrimPrefix(expect, "same-identity-as:"))
		if err != nil || otherErr != nil {
			return fmt.Sprintf("got %v, and %v", err, otherErr)
		}
		if proof.Subject != other.Subject || id() != other.Principal.Issuer+"|"+other.Principal.ID {
			return fmt.Sprintf("got %+v and %+v", proof.Subject, other.Subject)
		}
	default:
		t.Fatalf("an expectation that this test does not know: %s", expect)
	}
	return ""
}

func authenticate(a *jwt.Authenticator, token string) (*authn.Proof, error) {
	return a.Authenticate(context.Background(), &authn.Credential{Secret: policy.NewSecret(token)})
}

// authenticateBearer does so for a caller who has nothing but the token, as the Checker
// would: a token that is bound to a key or certificate is not enough.
func authenticateBearer(a *jwt.Authenticator, token string) (*authn.Proof, error) {
	proof, err := authenticate(a, token)
	if err == nil && proof.Confirm != (authn.Confirmation{}) {
		return nil, authn.Refuse(policy.ReasonBinding, "nothing but the token was shown")
	}
	return proof, err
}

// outcome names a refusal. Every one is a fact about the token: an error that
// means "could not find out" would be a way to turn a bad token into a 503.
func outcome(t *testing.T, id string, err error) string {
	t.Helper()
	var refusal *authn.Refusal
	switch {
	case errors.Is(err, authn.ErrNotMine):
		return "not mine"
	case !errors.As(err, &refusal):
		t.Errorf("%s: no refusal: %v", id, err)
	case refusal.Reason.Status() != 401:
		t.Errorf("%s: reason %s has status %d", id, refusal.Reason, refusal.Reason.Status())
	default:
		return refusal.Reason.String()
	}
	return "fault"
}

// listen counts the connections to a port that nobody has any business with.
func listen(t *testing.T) (port string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, connections
}
