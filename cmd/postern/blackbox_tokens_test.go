package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/vectortest"
)

// issuer signs tokens with Ed25519.
type issuer struct {
	url, kid string
	key      ed25519.PrivateKey
}

func newIssuer(url, kid string) issuer {
	seed := sha256.Sum256([]byte(url + " " + kid))
	return issuer{url, kid, ed25519.NewKeyFromSeed(seed[:])}
}

// jwks is a key set of the issuer's keys.
func jwks(issuers ...issuer) string {
	var keys []string
	for _, i := range issuers {
		x := base64.RawURLEncoding.EncodeToString(i.key.Public().(ed25519.PublicKey))
		keys = append(keys, fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":%q,"x":%q}`, i.kid, x))
	}
	return `{"keys":[` + strings.Join(keys, ",") + `]}`
}

type claims map[string]any

// token signs claims. Where they are silent, it is for audience "api" and lives
// for an hour.
func (i issuer) token(c claims) string {
	return i.sign(map[string]any{"alg": "EdDSA", "kid": i.kid}, c)
}

func (i issuer) sign(header map[string]any, c claims) string {
	now := time.Now()
	full := claims{"iss": i.url, "aud": "api", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(full, c)
	text := segment(header) + "." + segment(full)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(i.key, []byte(text)))
}

func segment(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// keyServer publishes a key set, over TLS, and counts how often it is asked. It
// is its own issuer too: its discovery document points to the key set.
type keyServer struct {
	*httptest.Server
	keys atomic.Pointer[string] // nil: it answers with 500
	hits atomic.Int64
}

func publish(t testing.TB, keys string) *keyServer {
	s := &keyServer{}
	s.keys.Store(&keys)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, s.URL, s.URL+"/jwks")
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		s.hits.Add(1)
		if keys := s.keys.Load(); keys != nil {
			fmt.Fprint(w, *keys)
			return
		}
		http.Error(w, "down", http.StatusInternalServerError)
	})
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s
}

// ca is the server's certificate, for ca_file.
func (s *keyServer) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// vector is a line of jwt/vectors.jsonl.
type vector struct {
	ID, Class, Expect, Why, Token, Header, Payload, Principal string
	Recipe                                                    *tokenRecipe `json:"token_recipe"`
}

// tokenRecipe builds a token that is too big to be written down.
type tokenRecipe struct {
	Repeat, Prefix, Suffix string
	Count, Depth           int
	Header                 json.RawMessage
	Payload                string
	PayloadNest            string `json:"payload_nest"`
	HeaderNest             string `json:"header_nest"`
	PayloadKeys            int    `json:"payload_keys"`
	Digits                 int    `json:"payload_number_digits"`
	KidLen                 int    `json:"kid_len"`
}

// tokenFixture is the world of those vectors: jwt/fixture.json.
type tokenFixture struct {
	Issuers []struct {
		JWKS   json.RawMessage
		Secret string `json:"secret_b64url"`
	}
	PrivateKeys map[string]string `json:"private_keys_pem"`
}

func readTokenFixture(t testing.TB) (f tokenFixture) {
	t.Helper()
	if err := json.Unmarshal(vectortest.Read(t, "jwt/fixture.json"), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// world is the configuration that the vectors assume, and the server of issuer
// A's keys.
func (f tokenFixture) world(t testing.TB) (world, *keyServer) {
	t.Helper()
	keys := publish(t, string(f.Issuers[0].JWKS))
	w := prepare(t, "tokens", "@JWKS@", keys.URL+"/jwks")
	w.write(t, "ca.pem", keys.ca())
	w.write(t, "b.json", string(f.Issuers[1].JWKS))
	w.write(t, "c.secret", f.Issuers[2].Secret)
	return w, keys
}

// sign signs with RS256, the exact texts.
func (f tokenFixture) sign(t testing.TB, key, header, payload string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(cmp.Or(f.PrivateKeys[key], f.PrivateKeys[key+" (attacker)"])))
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, private.(*rsa.PrivateKey), crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// token is the token of a vector. {TRAP} in it becomes a port of this machine
// that nobody has any business with.
func (f tokenFixture) token(t testing.TB, v *vector, trap string) string {
	t.Helper()
	const alice = `{"iss":"https://issuer-a.test/","sub":"alice","aud":"postern-test","exp":4102444800,"iat":1704067200,"jti":"j-1","scope":"read"`
	if v.Recipe == nil {
		if strings.Contains(v.Header, "{TRAP}") {
			return f.sign(t, "x-rsa", strings.ReplaceAll(v.Header, "{TRAP}", trap), v.Payload)
		}
		return v.Token
	}
	r := v.Recipe
	header, payload, nested := string(r.Header), r.Payload, strings.Repeat("[", r.Depth)+strings.Repeat("]", r.Depth)
	switch {
	case r.Repeat != "":
		return r.Prefix + strings.Repeat(r.Repeat, r.Count) + r.Suffix
	case r.PayloadNest != "":
		payload = alice + `,"x":` + nested + `}`
	case r.HeaderNest != "":
		header = `{"alg":"RS256","kid":"a-rsa-1","x":` + nested + `}`
	case r.PayloadKeys > 0:
		var members strings.Builder
		for i := range r.PayloadKeys {
			fmt.Fprintf(&members, `,"k%d":1`, i)
		}
		payload = alice + members.String() + `}`
	case r.Digits > 0:
		payload = alice + `,"x":` + strings.Repeat("9", r.Digits) + `}`
	case r.KidLen > 0:
		header = `{"alg":"RS256","kid":"` + strings.Repeat("k", r.KidLen) + `"}`
	default:
		t.Fatalf("%s: a recipe that this test does not know", v.ID)
	}
	return f.sign(t, "a-rsa-1", header, payload)
}

// listenTrap counts the connections to a port of this machine.
func listenTrap(t testing.TB) (port string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	connections = new(atomic.Int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = c.Close()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, connections
}

// J-01 J-02 J-03 J-04 J-08 J-12 O-02 O-06 O-08 M-06 G-13: every vector of
// jwt/vectors.jsonl, in the headers of both doors and apart from them.
func TestVectorsTokens(t *testing.T) {
	t.Parallel()
	f := readTokenFixture(t)
	w, keys := f.world(t)
	b := start(t, w)
	trap, connections := listenTrap(t)
	results := tally{}
	var malleable []string
	vectors := vectortest.Lines[vector](t, "jwt/vectors.jsonl")
	for i := range vectors {
		v := &vectors[i]
		token := f.token(t, v, trap)
		if other, ok := strings.CutPrefix(v.Expect, "same-identity-as:"); ok {
			malleable = []string{token, other}
		}
		b.hide(secretParts(token)...)
		for name, ask := range map[string]func(path string) (answer, bool){
			"extauthz": func(path string) (answer, bool) { return b.tryEnvoy(t, get(path, bearer(token)...), len(token)) },
			"grpc":     func(path string) (answer, bool) { return b.tryPostern(t, get(path, bearer(token)...), "", len(token)) },
			"apart":    func(path string) (answer, bool) { return b.tryPostern(t, get(path), token, len(token)) },
		} {
			problem := ""
			if home, answered := ask("/"); answered {
				admin, _ := ask("/admin")
				problem = v.judge(home, admin)
			}
			if results.count(v.Class, problem == ""); problem != "" {
				t.Errorf("%s over %s (%s): want %.60s, got %s", v.ID, name, v.Why, v.Expect, problem)
			}
		}
	}
	results.print(t)
	if len(vectors) != 485 {
		t.Errorf("%d vectors, not 485", len(vectors))
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("tokens made the server connect %d times", n)
	}
	if n := keys.hits.Load(); n > 2 {
		t.Errorf("tokens with unknown keys made the server fetch keys %d times", n)
	}
	testMalleable(t, b, malleable)
}

// secretParts are the parts of a token that can be secrets: base64url, and not the
// same few letters over and over.
const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func secretParts(token string) (parts []string) {
	for _, p := range strings.Split(token[:min(len(token), 1<<14)], ".") {
		letters := map[rune]bool{}
		for _, c := range p {
			letters[c] = true
		}
		if len(letters) > 8 && len(p) > 32 && strings.Trim(p, base64url) == "" {
			parts = append(parts, p)
		}
	}
	return parts
}

// maxMessage is the largest message that the server takes by default. What does
// not fit gets no answer, which no vector wants for a good token.
const maxMessage = 4 << 20

func (b *box) tryEnvoy(t testing.TB, q request, size int) (answer, bool) {
	if size < maxMessage {
		return b.askEnvoy(t, q), true
	}
	return answer{}, false
}

func (b *box) tryPostern(t testing.TB, q request, token string, size int) (answer, bool) {
	if size >= maxMessage {
		return answer{}, false
	}
	if token == "" {
		return b.askPostern(t, q), true
	}
	return b.askCheck(t, q, &posternv1.Credential{Kind: &posternv1.Credential_BearerToken{BearerToken: token}}), true
}

// judge holds the answers for a path that every credential opens, and for one
// that needs scope admin, against the expectation. It returns what is wrong.
func (v *vector) judge(home, admin answer) string {
	id := home.issuer + "|" + home.principal
	problem := func(bad bool) string {
		if bad {
			return fmt.Sprintf("%v, and for admin %v", home, admin)
		}
		return ""
	}
	switch not, isNot := strings.CutPrefix(v.Expect, "not-principal-"); {
	case home.status != 200 && home.status != 401 && home.status != 400: // a fault would be an oracle
		return problem(true)
	case isNot:
		return problem(home.allowed() && (id == not || home.principal == not))
	case strings.HasPrefix(v.Expect, "same-identity-as:"):
		return problem(!home.allowed() || id != v.Principal || home.credential != "mal-es")
	}
	switch v.Expect {
	case "deny":
		return problem(home.allowed() || admin.allowed())
	case "allow":
		return problem(!home.allowed() || id != v.Principal)
	case "allow-or-deny-no-fetch", "no-crash":
		return ""
	case "no-scope-admin":
		return problem(admin.allowed())
	case "scope-admin":
		return problem(!home.allowed() || !admin.allowed())
	case "scope-admin-or-deny":
		return problem(home.allowed() && !admin.allowed())
	}
	return "an expectation that this test does not know"
}

// J-09: a token and its twin with another valid signature are one credential:
// what revokes the one revokes the other.
func testMalleable(t *testing.T, b *box, twins []string) {
	if len(twins) != 2 {
		t.Fatal("no vector of a malleable signature")
	}
	b.write(t, "keys.yaml", "revocations: [{jti: mal-es}]\nkeys: []\n")
	eventually(t, "the denylist counts", func() bool { return !b.askEnvoy(t, get("/", bearer(twins[1])...)).allowed() })
	for _, token := range twins {
		b.expect(t, get("/", bearer(token)...), 401, "revoked")
	}
}

// J-10: every replica says the same of the same token, whichever it asked first.
func TestReplicasAgree(t *testing.T) {
	t.Parallel()
	f := readTokenFixture(t)
	w, _ := f.world(t)
	w.shared(t)
	replicas := []*box{start(t, w), start(t, w), start(t, w)}
	vectors := vectortest.Lines[vector](t, "jwt/vectors.jsonl")
	for i := range vectors {
		v := &vectors[i]
		if v.Recipe != nil {
			continue
		}
		q := get("/", bearer(f.token(t, v, "1"))...)
		first := replicas[i%3].askEnvoy(t, q)
		for _, r := range replicas {
			if again := r.askEnvoy(t, q); again.String() != first.String() || again.credential != first.credential || again.revision != first.revision {
				t.Errorf("%s: one replica says %v, another %v", v.ID, first, again)
			}
		}
	}
}

// M-04, X-05 and E-01: 10,000 decisions on tokens ask nobody. The keys were fetched
// once, no decision needed a store, and what was proven is remembered.
func TestTokensNeedNoStore(t *testing.T) {
	t.Parallel()
	issuer := newIssuer("https://issuer.test", "k1")
	keys := publish(t, jwks(issuer))
	b := startWithIssuer(t, issuer.url, keys)
	var tokens []string
	for i := range 500 {
		tokens = append(tokens, issuer.token(claims{"sub": fmt.Sprint("user", i)}))
	}
	b.expect(t, get("/", bearer(tokens[0])...), 200, "allowed")
	before := keys.hits.Load()
	var wg sync.WaitGroup
	for door := range 4 {
		wg.Go(func() {
			for i := range 2500 {
				q := get("/", bearer(tokens[(i+door)%len(tokens)])...)
				if a, _ := b.quietly(q, door%2 == 0); !a {
					t.Errorf("decision %d was a deny", i)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := keys.hits.Load() - before; n != 0 {
		t.Errorf("%d fetches of keys", n)
	}
	m := b.scrape(t)
	if strings.Contains(m, `state="store"`) || !strings.Contains(m, `state="none"`) {
		t.Error("a decision needed a store:", m)
	}
	// Callers that come at the same instant may each prove a token.
	if hits := metric(t, m, `postern_credential_cache_total{of="issuers",result="hit"}`); hits < 9000 {
		t.Errorf("%d of 10,000 were remembered", hits)
	}
}

// quietly asks one door and keeps nothing of the answer.
func (b *box) quietly(q request, envoy bool) (allowed bool, err error) {
	if envoy {
		res, err := b.envoy.Check(context.Background(), q.forEnvoy())
		return res.GetOkResponse() != nil, err
	}
	res, err := b.postern.Check(context.Background(), &posternv1.CheckRequest{Target: q.forPostern()})
	return res.GetDecision().GetAllowed(), err
}

// startWithIssuer runs a server that believes one issuer. Without a URL of its
// keys they are found by discovery.
func startWithIssuer(t testing.TB, url string, keys *keyServer) *box {
	t.Helper()
	at := "jwks: " + keys.URL + "/jwks"
	if url == keys.URL {
		at = ""
	}
	w := prepare(t, "issuer", "@ISSUER@", url, "@JWKS@", at)
	w.write(t, "ca.pem", keys.ca())
	return start(t, w)
}

// cooldown is what world "issuer" is configured with: the time between fetches of
// keys that tokens can cause.
const cooldown = time.Second

// O-01: an issuer that is found by discovery rotates its keys at its own pace,
// and no good token is refused at any moment.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	keys := publish(t, "")
	old, next := newIssuer(keys.URL, "old"), newIssuer(keys.URL, "next")
	set := jwks(old)
	keys.keys.Store(&set)
	b := startWithIssuer(t, keys.URL, keys)

	var signer atomic.Pointer[issuer]
	signer.Store(&old)
	var decisions, bad atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for client := range 2 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				token := signer.Load().token(claims{"sub": fmt.Sprint(client, "-", i)})
				if allowed, err := b.quietly(get("/", bearer(token)...), i%2 == 0); !allowed {
					bad.Add(1)
					t.Errorf("a good token of %s was refused: %v", signer.Load().kid, err)
				}
				decisions.Add(1)
			}
		})
	}
	more := func() {
		until := decisions.Load() + 200
		eventually(t, "decisions go on", func() bool { return decisions.Load() > until || bad.Load() > 0 })
	}
	more()
	both := jwks(old, next)
	keys.keys.Store(&both) // the new key is published
	began := time.Now()
	eventually(t, "the cooldown ends", func() bool { return time.Since(began) > cooldown })
	signer.Store(&next) // and signs
	more()
	alone := jwks(next)
	keys.keys.Store(&alone) // and in the end the old one is withdrawn
	more()
	keys.keys.Store(nil) // the issuer goes down: its keys are kept
	more()
	stop()
	wg.Wait()
	t.Logf("%d decisions, %d fetches of keys", decisions.Load(), keys.hits.Load())
}

// What tokens say and how they are refused: one row for each promise, with the
// reason that a caller gets.
func TestTokens(t *testing.T) {
	t.Parallel()
	i := newIssuer("https://issuer.test", "k1")
	b := startWithIssuer(t, i.url, publish(t, jwks(i)))
	hour := time.Now().Add(time.Hour).Unix()
	for name, c := range map[string]struct {
		token  string
		status int
		reason string
	}{
		"good":                         {i.token(claims{"sub": "alice"}), 200, "allowed"},
		"J-03 wrong audience, M-06":    {i.token(claims{"sub": "alice", "aud": "other"}), 401, "invalid_audience"},
		"J-03 no audience":             {i.token(claims{"sub": "alice", "aud": nil}), 401, "invalid_audience"},
		"J-03 other issuer":            {i.token(claims{"sub": "alice", "iss": "https://issuer.test/"}), 401, "issuer_untrusted"},
		"J-04 expired":                 {i.token(claims{"sub": "alice", "exp": time.Now().Add(-time.Minute).Unix()}), 401, "expired"},
		"J-04 not yet valid":           {i.token(claims{"sub": "alice", "nbf": time.Now().Add(time.Minute).Unix()}), 401, "not_yet_valid"},
		"M-06 lives too long":          {i.token(claims{"sub": "alice", "exp": hour + 24*3600}), 401, "lifetime_exceeded"},
		"J-08 too large":               {i.token(claims{"sub": "alice", "x": strings.Repeat("x", 9<<10)}), 401, "token_too_large"},
		"O-06 refresh token":           {i.token(claims{"sub": "alice", "type": "refresh"}), 401, "wrong_token_type"},
		"O-08 ID token":                {i.token(claims{"sub": "alice", "nonce": "n", "at_hash": "h"}), 401, "wrong_token_type"},
		"J-01 the sample of the books": {"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c", 401, "issuer_untrusted"},
		"J-02 an algorithm of another": {i.sign(map[string]any{"alg": "HS256", "kid": i.kid}, claims{"sub": "alice"}), 401, "signature_invalid"},
	} {
		b.hide(secretParts(c.token)...)
		a := b.ask(t, get("/", bearer(c.token)...))
		if a.status != c.status || a.reason != c.reason {
			t.Errorf("%s: %v, want %d %s", name, a, c.status, c.reason)
		}
		// J-05, T-01 and T-04: the challenge of RFC 6750 section 3.
		if want := `Bearer realm="postern", error="invalid_token"`; c.status == 401 && !strings.HasPrefix(a.header("www-authenticate"), want) {
			t.Errorf("%s: challenge %q", name, a.header("www-authenticate"))
		}
	}

	// J-06 and J-07: roles are where the configuration says, and a secret among the
	// claims goes nowhere.
	b.hide("hunter2-correct-horse")
	token := i.token(claims{"sub": "alice", "realm_access": claims{"roles": []string{"user", "admin"}}, "password": "hunter2-correct-horse", "team": "billing", "jti": "t-1"})
	a := b.expect(t, get("/", bearer(token)...), 200, "allowed")
	if got := a.upstream("x-auth-roles"); got != "user,admin" || a.upstream("x-auth-principal") != "alice" || a.credential != "t-1" {
		t.Errorf("roles %q of %v", got, a)
	}
	if seen := a.upstream("x-claims"); seen != `{"team":"billing"}` {
		t.Errorf("the policy sees the claims %s", seen)
	}
}
