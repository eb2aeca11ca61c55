package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// The scenarios of what is remembered: of a credential that is good for one rule nothing
// follows for another, and of one that was taken back nothing is left.

// curve is an issuer that signs with ES256, whose signatures have two forms.
type curve struct{ key *ecdsa.PrivateKey }

func newCurve(t testing.TB) curve {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return curve{key}
}

func (i curve) jwks(t testing.TB) string {
	t.Helper()
	public, err := i.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"c1","x":%q,"y":%q}]}`, b64(public[1:33]), b64(public[33:]))
}

// token signs claims, and returns what is signed and the signature's two numbers.
func (i curve) token(t testing.TB, c claims) (signed string, r, s *big.Int) {
	t.Helper()
	now := time.Now()
	c["iss"], c["aud"], c["iat"], c["exp"] = "https://curve.test", "all", now.Unix(), now.Add(time.Hour).Unix()
	signed = segment(map[string]any{"alg": "ES256", "kid": "c1"}) + "." + segment(c)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed, r, s
}

func joinES256(signed string, r, s *big.Int) string {
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// launchCaches runs world "caches", with a user and a service that have the scope read.
func launchCaches(t testing.TB) (*replica, curve) {
	t.Helper()
	i := newCurve(t)
	w := prepare(t, "caches", "@STORE@", sqliteStore)
	w.write(t, "jwks.json", jwks(testIssuer))
	w.write(t, "curve.json", i.jwks(t))
	w.bootstrap(t)
	p := launch(t, w)
	p.principal(t, &adminv1.Principal{Id: "ann", Kind: aUser, Scopes: []string{"read"}})
	does(t, p.users.SetPassword, &adminv1.SetPasswordRequest{Id: "ann", Password: annsPassword})
	p.principal(t, &adminv1.Principal{Id: "app", Kind: aService, Scopes: []string{"read"}})
	return p, i
}

// CACHE-03 and CACHE-04: what a rule asks of a credential is asked each time, whatever the
// credential was good for a moment ago.
func TestRulesShareNoAnswers(t *testing.T) {
	t.Parallel()
	p, i := launchCaches(t)
	_, key := p.issue(t, &adminv1.Credential{Type: apiKey, PrincipalId: "app", Scopes: []string{"read"}})
	_, onlyA := p.issue(t, &adminv1.Credential{Type: apiKey, PrincipalId: "app", Constraints: &adminv1.Constraints{Audiences: []string{"a"}}})
	_, token := p.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: "laptop", Scopes: []string{"read"}})
	session := p.logIn(t, "ann", annsPassword).cookie
	signed, r, s := i.token(t, claims{"sub": "ann", "scope": "read"})
	p.becomes(t, withCookie("/", session), 200, "allowed")
	asked := func(path string, headers ...string) request { return get(path, headers...) }
	for name, c := range map[string]struct {
		headers          []string
		good, bad        string
		reason           string
		status, goodCode int
	}{
		"an API key":      {[]string{"x-api-key", key}, "/read/1", "/write/1", "insufficient_scope", 403, 200},
		"a token":         {[]string{"x-api-key", token}, "/read/1", "/write/1", "insufficient_scope", 403, 200},
		"a JWT":           {bearer(testIssuer.token(claims{"sub": "ann", "scope": "read", "aud": "all"})), "/read/1", "/write/1", "insufficient_scope", 403, 200},
		"a JWT, ES256":    {bearer(joinES256(signed, r, s)), "/read/1", "/write/1", "insufficient_scope", 403, 200},
		"a session":       {[]string{"cookie", "__Host-session=" + session}, "/read/1", "/write/1", "insufficient_scope", 403, 200},
		"a password":      {[]string{"authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+annsPassword))}, "/read/1", "/write/1", "insufficient_scope", 403, 200},
		"a JWT for a":     {bearer(testIssuer.token(claims{"sub": "ann", "aud": "a"})), "/a/1", "/b/1", "audience", 401, 200},
		"an API key of a": {[]string{"x-api-key", onlyA}, "/a/1", "/b/1", "audience", 401, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good, bad := asked(c.good, c.headers...), asked(c.bad, c.headers...)
			p.becomes(t, good, 200, "allowed")
			denied := p.ask(t, bad)
			if denied.allowed() || denied.status != c.status && denied.status != 403 {
				t.Fatalf("%v", denied)
			}
			// In any order, and at the same time.
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for range 50 {
						if a := p.askEnvoy(t, good); !a.allowed() && a.status != 503 {
							t.Errorf("%s: %v", c.good, a)
						}
						if a := p.askEnvoy(t, bad); a.allowed() || a.status != 503 && a.String() != denied.String() {
							t.Errorf("%s: %v, before %v", c.bad, a, denied)
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// CACHE-10: when a revocation has been acknowledged, no check that begins later is allowed
// on the replica that was asked, however busy it is with the key; on others, a second later.
func TestRevokedUnderLoad(t *testing.T) {
	t.Parallel()
	t.Run("one replica", func(t *testing.T) {
		t.Parallel()
		p, _ := launchCaches(t)
		revokedUnderLoad(t, []*replica{p})
	})
	t.Run("three replicas", func(t *testing.T) {
		t.Parallel()
		_, replicas := launchReplicas(t, 3, "mode: strict")
		replicas[0].service(t, "app")
		revokedUnderLoad(t, replicas)
	})
}

func revokedUnderLoad(t *testing.T, replicas []*replica) {
	for range 5 {
		id, key := replicas[0].key(t, "app")
		req := withKey("/", key).forEnvoy()
		var acknowledged atomic.Int64 // Unix time in ns; 0: not yet
		var all sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		var checks, late atomic.Int64
		for n, p := range replicas {
			p.becomes(t, withKey("/", key), 200, "allowed")
			for range 4 {
				all.Go(func() {
					for ctx.Err() == nil {
						begun := time.Now()
						at := acknowledged.Load() // before the check begins
						res, err := p.envoy.Check(ctx, req)
						if err != nil {
							continue
						}
						checks.Add(1)
						if at == 0 || res.GetOkResponse() == nil {
							continue
						}
						if n == 0 || begun.Sub(time.Unix(0, at)) > time.Second {
							t.Errorf("replica %d allows %v after the revocation", n, begun.Sub(time.Unix(0, at)))
						}
						late.Add(1)
					}
				})
			}
		}
		eventually(t, "it is busy", func() bool { return checks.Load() > 200 })
		does(t, replicas[0].credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
		acknowledged.Store(time.Now().UnixNano())
		for _, p := range replicas {
			p.until(t, time.Now().Add(time.Second), withKey("/", key), 401, "revoked")
		}
		more := checks.Load()
		eventually(t, "some more checks", func() bool { return checks.Load() > more+200 })
		stop()
		all.Wait()
		t.Logf("%d checks, %d allowed by other replicas within their second", checks.Load(), late.Load())
	}
}

// CACHE-11: a token that was revoked by its jti stays so in whatever spelling it comes.
func TestRevokedInAnySpelling(t *testing.T) {
	t.Parallel()
	p, i := launchCaches(t)
	signed, r, s := i.token(t, claims{"sub": "ann", "jti": "es-1"})
	curved := joinES256(signed, r, s)
	edwards := testIssuer.token(claims{"sub": "ann", "jti": "ed-1", "aud": "all"})
	for _, token := range []string{curved, edwards} {
		p.becomes(t, get("/", bearer(token)...), 200, "allowed")
	}
	mirrored := joinES256(signed, r, new(big.Int).Sub(elliptic.P256().Params().N, s)) // is a signature as well (FIPS 186-5)
	allowedBefore := p.ask(t, get("/", bearer(mirrored)...)).allowed()
	for _, jti := range []string{"es-1", "ed-1"} {
		does(t, p.denylist.AddDenial, &adminv1.AddDenialRequest{Denial: &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: jti}}})
	}
	for _, token := range []string{curved, edwards} {
		p.becomes(t, get("/", bearer(token)...), 401, "revoked")
	}
	t.Logf("the mirrored signature was good before: %v", allowedBefore)
	for name, q := range map[string]request{
		"mirrored":             get("/", bearer(mirrored)...),
		"another query":        get("/?b=2&a=1", bearer(curved)...),
		"the query reordered":  get("/?a=1&b=2", bearer(curved)...),
		"another scheme":       get("/", "authorization", "bearer "+curved),
		"two spaces":           get("/", "authorization", "Bearer  "+curved),
		"another path":         get("/read/1", bearer(curved)...),
		"another host":         get("/", bearer(curved)...).at("other.test"),
		"another method":       get("/", bearer(curved)...).with("POST"),
		"with another header":  get("/", append(bearer(curved), "x-a", "1")...),
		"padded":               get("/", bearer(curved+"=")...),
		"padded twice":         get("/", bearer(curved+"==")...),
		"with a new line":      get("/", bearer(curved+"\n")...),
		"with a space":         get("/", bearer(curved+" ")...),
		"in standard base64":   get("/", bearer(strings.NewReplacer("-", "+", "_", "/").Replace(edwards+"="))...),
		"with a tab inside":    get("/", bearer(edwards[:len(edwards)-4]+"\t"+edwards[len(edwards)-4:])...),
		"the header once more": get("/", append(bearer(edwards), bearer(edwards)...)...),
	} {
		if a := p.askEnvoy(t, q); a.allowed() {
			t.Errorf("%s: %v", name, a)
		}
	}
	for _, token := range []string{curved, edwards, mirrored} {
		for _, spelling := range sameBits(token) {
			if a := p.askEnvoy(t, get("/", bearer(spelling)...)); a.allowed() {
				t.Errorf("…%s: %v", spelling[len(spelling)-8:], a)
			}
		}
	}
}

// sameBits are the texts that decode to the same bytes for who is not strict: the last
// letter of base64 has bits to spare.
func sameBits(token string) (all []string) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	at := strings.IndexByte(letters, token[len(token)-1])
	for spare := range 16 {
		if other := at&^15 | spare; other != at {
			all = append(all, token[:len(token)-1]+string(letters[other]))
		}
	}
	return all
}

// CACHE-18: of keys and passwords that were checked the process keeps nothing but hashes.
// Its memory is searched, which takes root. Memory that Go has freed is not empty before
// it is used again, so this process runs with clobberfree, which empties it: what is found
// then is held by somebody.
func TestSecretsLeaveMemory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("reading the memory of another process takes root")
	}
	t.Parallel()
	first, _ := launchCaches(t)
	var keys []string
	for range 100 {
		_, key := first.key(t, "app")
		keys = append(keys, key)
	}
	first.stop(t, syscall.SIGTERM) // its successor only checks
	p := launch(t, first.world, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "GODEBUG=clobberfree=1", "GOGC=10") })
	password := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+annsPassword))
	p.becomes(t, withKey("/", keys[len(keys)-1]), 200, "allowed")
	for range 10 {
		for _, key := range keys {
			p.checks(t, "x-api-key", key)
		}
	}
	for range 5 {
		p.checks(t, "authorization", password)
		p.logIn(t, "ann", annsPassword)
	}
	secrets := [][]byte{[]byte(annsPassword), []byte(strings.TrimPrefix(password, "Basic "))}
	for _, key := range keys {
		secrets = append(secrets, []byte(key[len("pst_key_")+13:]))
	}
	// Others come by meanwhile, through the same buffers and stacks.
	eventually(t, "the secrets are forgotten", func() bool {
		for n := range 100 {
			p.checks(t, "x-api-key", fmt.Sprintf("pst_key_%012d_%049d", n, n))
			p.checks(t, "x-other", strings.Repeat("x", 4<<10))
			p.post(t, "/login", url.Values{"username": {"nobody"}, "password": {strings.Repeat("y", 64)}})
		}
		p.scrape(t)
		return searchMemory(t, p.cmd.Process.Pid, secrets) == 0
	})
}

func (p *replica) checks(t testing.TB, name, value string) {
	t.Helper()
	q := get("/", name, value)
	if _, err := p.envoy.Check(t.Context(), q.forEnvoy()); err != nil {
		t.Error(err)
	}
	if _, err := p.postern.Check(t.Context(), &posternv1.CheckRequest{Target: q.forPostern()}); err != nil {
		t.Error(err)
	}
}

// searchMemory counts the secrets in the memory that a process can write.
func searchMemory(t testing.TB, pid int, secrets [][]byte) (found int) {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var rights string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); n != 3 || !strings.HasPrefix(rights, "rw") {
			continue
		}
		const size, overlap = 4 << 20, 256
		buf := make([]byte, size)
		for at := from; at < to; at += size - overlap {
			n, _ := memory.ReadAt(buf[:min(size, to-at)], at)
			for _, s := range secrets {
				if n > 0 && bytes.Contains(buf[:n], s) {
					found++
				}
			}
		}
	}
	return found
}
