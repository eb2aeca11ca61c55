package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// The furniture of the tests of all kinds of credentials: who signs, who issues
// certificates, who holds keys. World "kinds" has one of each kind that needs no store,
// and its policy tells the upstream in the field x-seen what it sees.

// pki is a CA of `postern dev ca` (C-08).
type pki struct{ dir string }

func newPKI(t testing.TB, dir string) pki {
	t.Helper()
	postern(t, "dev", "ca", "init", dir)
	return pki{dir}
}

// cert is the CA's own certificate.
func (p pki) cert(t testing.TB) string { return world(p.dir).read(t, "ca.pem") }

// certificate is one that a CA issued, with its key.
type certificate struct {
	signed
	pem, spiffe string
}

// issue issues a certificate, as the flags of the command say.
func (p pki) issue(t testing.TB, flags ...string) (c certificate) {
	t.Helper()
	text := postern(t, append([]string{"dev", "ca", "issue", p.dir, "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(text), &c.signed); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(c.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	c.pem = string(raw)
	if at := slices.Index(flags, "--spiffe"); at >= 0 {
		c.spiffe = flags[at+1]
	}
	return c
}

// workload issues a certificate of a workload of prod.test.
func (p pki) workload(t testing.TB, name string) certificate {
	t.Helper()
	return p.issue(t, "--spiffe", "spiffe://prod.test/"+name)
}

// revoke puts a certificate on the CA's list.
func (p pki) revoke(t testing.TB, c certificate) {
	t.Helper()
	postern(t, "dev", "ca", "revoke", p.dir, c.Serial)
}

func (c certificate) pair(t testing.TB) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// xfcc is what Envoy writes into x-forwarded-client-cert with SANITIZE_SET and cert.
func (c certificate) xfcc() []string {
	element := "By=spiffe://prod.test/envoy;Hash=" + c.Fingerprint + `;Cert="` + escaped(c.pem) + `"`
	if c.spiffe != "" {
		element += ";URI=" + c.spiffe
	}
	return []string{"x-forwarded-client-cert", element}
}

// clientCert is the field of RFC 9440.
func (c certificate) clientCert() []string {
	block, _ := pem.Decode([]byte(c.pem))
	return []string{"client-cert", ":" + base64.StdEncoding.EncodeToString(block.Bytes) + ":"}
}

func escaped(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

// holder is a client that proves that it holds a key, with Ed25519 (RFC 9449).
type holder struct{ ed25519.PrivateKey }

func newHolder(t testing.TB) holder {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return holder{key}
}

// jwk is the public key, its members in the order in which RFC 7638 hashes them.
func (h holder) jwk() string {
	return fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":%q}`, base64.RawURLEncoding.EncodeToString(h.Public().(ed25519.PublicKey)))
}

func (h holder) thumbprint() string { return digest(h.jwk()) }

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// bind is the claim that binds a token to the key.
func (h holder) bind() claims { return claims{"jkt": h.thumbprint()} }

// proof signs a proof for a request with a token; changes replace its claims.
func (h holder) proof(method, address, token string, changes claims) string {
	full := claims{"htm": method, "htu": address, "iat": time.Now().Unix(), "jti": rand.Text(), "ath": digest(token)}
	maps.Copy(full, changes)
	text := segment(map[string]any{"typ": "dpop+jwt", "alg": "EdDSA", "jwk": json.RawMessage(h.jwk())}) + "." + segment(full)
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(h.PrivateKey, []byte(text)))
}

// shows is a request for a path with a token and a proof of its own.
func (h holder) shows(path, token string, changes claims) request {
	return get(path, "authorization", "DPoP "+token, "dpop", h.proof("GET", "https://api.test"+path, token, changes))
}

// fresh asks both doors, which have to agree, each a request of its own: what may be
// used once is used up by the first.
func (b *box) fresh(t testing.TB, q func() request, status int, reason string) answer {
	t.Helper()
	a, other := b.askEnvoy(t, q()), b.askPostern(t, q())
	if a.status != status || a.reason != reason || other.String() != a.String() {
		t.Errorf("%s: ext_authz says %v, CheckService %v, want %d %s", q().path, a, other, status, reason)
	}
	return a
}

// as is the same server, asked by another caller.
func (b *box) as(t testing.TB, options ...grpc.DialOption) *box {
	t.Helper()
	conn := dial(t, b.rpc, options...)
	other := &box{world: b.world, rpc: b.rpc, admin: b.admin, envoy: authv3.NewAuthorizationClient(conn), postern: posternv1.NewCheckServiceClient(conn), hidden: b.hidden}
	t.Cleanup(func() { b.leaks(t, "answers", other.answers.String()) })
	return other
}

// bearing sends a token with every call, as callers.token wants it.
type callToken string

func (k callToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

func (callToken) RequireTransportSecurity() bool { return false }

// seen is what the policy of world "kinds" saw.
type seen struct {
	ID, Kind, Tenant, ACR string
	Roles, Scopes, AMR    []string
	Assurance             int
	Zones                 []string
	Peer                  string
	Actors                []struct{ ID, Kind string }
	Metadata              map[string]any
}

func (a answer) seen(t testing.TB) (s seen) {
	t.Helper()
	if !a.allowed() {
		return s
	}
	if err := json.Unmarshal([]byte(a.upstream("x-seen")), &s); err != nil {
		t.Fatalf("x-seen is %q: %v", a.upstream("x-seen"), err)
	}
	return s
}

// oauthServer is an authorization server: it signs tokens, publishes its keys and
// metadata, and answers about opaque tokens (RFC 7662).
type oauthServer struct {
	*httptest.Server
	issuer
	keys           atomic.Pointer[string] // its key set
	fetched, asked atomic.Int64           // for keys, about tokens
	broken         atomic.Pointer[http.HandlerFunc]

	mu    sync.Mutex
	about map[string]claims // of active tokens
	shown map[string]bool   // what it was asked about
}

const introspectionSecret = "zk3-Wbnql-cobalt-9120"

func startOAuth(t testing.TB) *oauthServer {
	t.Helper()
	s := &oauthServer{about: map[string]claims{}, shown: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"introspection_endpoint":%q}`, s.URL, s.URL+"/jwks", s.URL+"/introspect")
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		s.fetched.Add(1)
		_, _ = io.WriteString(w, *s.keys.Load())
	})
	mux.HandleFunc("POST /introspect", s.introspect)
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken := s.broken.Load(); broken != nil {
			(*broken)(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	s.issuer = newIssuer(s.URL, "k1")
	s.publish(s.issuer)
	return s
}

func (s *oauthServer) publish(issuers ...issuer) {
	set := jwks(issuers...)
	s.keys.Store(&set)
}

// fails has the server answer every request so; nil mends it.
func (s *oauthServer) fails(with http.HandlerFunc) {
	if with == nil {
		s.broken.Store(nil)
		return
	}
	s.broken.Store(&with)
}

// introspect is section 2 of RFC 7662: a form, a client that proves itself, and of a
// token that is not active nothing but that.
func (s *oauthServer) introspect(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	id, secret, _ := r.BasicAuth()
	if id != "postern" || secret != introspectionSecret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || r.Header.Get("Accept") != "application/json" || r.URL.RawQuery != "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	token := r.PostFormValue("token")
	s.mu.Lock()
	about, active := s.about[token]
	s.shown[token] = true
	s.mu.Unlock()
	full := claims{"active": active}
	if active {
		full = claims{"active": true, "iss": s.url, "aud": "api", "exp": time.Now().Add(time.Hour).Unix(), "token_type": "Bearer"}
		maps.Copy(full, about)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(full)
}

// opaque issues an opaque token.
func (s *oauthServer) opaque(about claims) string {
	token := "opaque-" + rand.Text()
	s.knows(token, about)
	return token
}

// knows has the server find a token active; nil revokes it.
func (s *oauthServer) knows(token string, about claims) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if about == nil {
		delete(s.about, token)
		return
	}
	s.about[token] = about
}

// saw reports whether it was asked about a token.
func (s *oauthServer) saw(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown[token]
}

// ca is the server's certificate, for ca_file.
func (s *oauthServer) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// kindsLab is world "kinds", running, with all who make its credentials.
type kindsLab struct {
	*box
	oauth                    *oauthServer
	jwt                      issuer // "https://issuer.test"
	planner, nightly, strict issuer
	mesh                     mesh
	pki                      pki
	key                      string // an API key
	web                      certificate
	stranger                 *box // whom the server believes nothing
}

const strangersToken = "st7-Hpvmx-garnet-5583"

// startKinds prepares and starts world "kinds", after changes to it.
func startKinds(t testing.TB, changes ...func(*kindsLab)) *kindsLab {
	t.Helper()
	lab := &kindsLab{
		oauth: startOAuth(t), jwt: newIssuer("https://issuer.test", "k1"), strict: newIssuer("https://strict.test", "k1"),
		mesh: newMesh(t), planner: newIssuer("planner", "p1"), nightly: newIssuer("nightly", "n1"),
	}
	w := prepare(t, "kinds", "@OAUTH@", lab.oauth.URL)
	lab.box = &box{world: w}
	lab.pki = newPKI(t, w.path("ca"))
	lab.web = lab.pki.workload(t, "ns/shop/sa/web")
	w.write(t, "oauth.pem", lab.oauth.ca())
	w.write(t, "oauth.secret", introspectionSecret)
	w.write(t, "stranger", strangersToken)
	w.write(t, "jwks.json", jwks(lab.jwt))
	w.write(t, "strict.json", jwks(lab.strict))
	w.write(t, "planner.json", jwks(lab.planner))
	w.write(t, "nightly.json", jwks(lab.nightly))
	w.write(t, "bundle.json", lab.mesh.bundle(t))
	w.write(t, "users", "ann:"+quickHash(annsPassword)+":clerk\n")
	lab.key = w.mint(t, order{id: "alice", scopes: []string{"read"}})
	for _, change := range changes {
		change(lab)
	}
	lab.box = start(t, w)
	lab.stranger = lab.as(t, grpc.WithPerRPCCredentials(callToken(strangersToken)))
	lab.hide(introspectionSecret, strangersToken, annsPassword, lab.key)
	return lab
}

// assertion is what a registered workload signs for one request.
func assertion(i issuer, changes claims) string {
	full := claims{"sub": i.url, "jti": rand.Text(), "exp": time.Now().Add(time.Minute).Unix()}
	maps.Copy(full, changes)
	return i.token(full)
}

// mesh is the authority of trust domain prod.test, which signs JWT-SVIDs with ES256.
type mesh struct{ *ecdsa.PrivateKey }

func newMesh(t testing.TB) mesh {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return mesh{key}
}

func (m mesh) bundle(t testing.TB) string {
	t.Helper()
	point, err := m.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"spiffe_sequence":1,"keys":[{"kty":"EC","crv":"P-256","use":"jwt-svid","kid":"m1","x":%q,"y":%q}]}`, encode(point[1:33]), encode(point[33:]))
}

// svid signs a JWT-SVID of a workload of prod.test for audience api.
func (m mesh) svid(t testing.TB, name string, changes claims) string {
	t.Helper()
	now := time.Now()
	full := claims{"sub": "spiffe://prod.test/" + name, "aud": []string{"api"}, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(full, changes)
	text := segment(map[string]any{"typ": "JWT", "alg": "ES256", "kid": "m1"}) + "." + segment(full)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, m.PrivateKey, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func plus(headers ...[]string) []string { return slices.Concat(headers...) }

func basicOf(user, password string) []string {
	return []string{"authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}
}

// quickHash is a hash of a password that is weak, so that tests are fast.
func quickHash(password string) string {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), 5)
	if err != nil {
		panic(err)
	}
	return string(hash)
}
