package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/server/authn/vault/vaulttest"
)

// kind is a kind of credential: how to make requests with it.
type kind struct {
	name, remark string
	// most is how many credentials can be had in a reasonable time; 0 for any number.
	most int
	// cold makes requests, each with a credential that was never seen.
	cold func(ctx context.Context, w *world, n int) ([][]byte, error)
	// warm makes n requests with one credential, after one that makes it known; nil if a
	// request is warm when it is repeated.
	warm func(ctx context.Context, w *world, n int) ([][]byte, error)
	// once says that a credential serves for one request only.
	once bool
}

// kinds are measured in this order.
var kinds = []kind{
	{name: "api-key", remark: "no cache: one look-up and one HMAC", cold: apiKeys},
	{name: "pat", remark: "issued over the admin API", most: 1000, cold: pats},
	{name: "jwt-rs256", cold: jwts(func(w *world) signer { return w.issuer.rs })},
	{name: "jwt-es256", cold: jwts(func(w *world) signer { return w.issuer.es })},
	{name: "jwt-eddsa", cold: jwts(func(w *world) signer { return w.issuer.ed })},
	{name: "introspection", remark: "cold: a question over TLS", cold: opaque},
	{name: "mtls-xfcc", remark: "cold: chain of one ECDSA signature", cold: certificates(byXFCC)},
	{name: "mtls-source", remark: "source.certificate and principal", cold: certificates(bySource)},
	{name: "dpop-es256", remark: "ES256 token; warm: it is known, the proof is new", cold: dpopCold, warm: dpopWarm},
	{name: "basic", remark: "Argon2id, 19 MiB, 2 passes", most: 12, cold: basicLogins},
	{name: "session", remark: "created over the admin API", most: 1000, cold: sessionCookies},
	{name: "app-session", remark: "cold: a question to Redis", cold: appSessions},
	{name: "vault", remark: "cold: a lookup over TLS", cold: vaultTokens},
	{name: "jwt-svid", remark: "ES256", cold: svids},
	{name: "workload", remark: "EdDSA; good for one request", cold: assertions("planner", func(w *world) signer { return w.planner }), once: true},
	{name: "workload-reusable", remark: "EdDSA", cold: assertions("nightly", func(w *world) signer { return w.nightly })},
}

// parallel makes n requests on all processors: signatures take a while.
func parallel(n int, one func(i int) ([]byte, error)) ([][]byte, error) {
	all, errs := make([][]byte, n), make([]error, runtime.GOMAXPROCS(0))
	var next atomic.Int64
	var group sync.WaitGroup
	for worker := range errs {
		group.Go(func() {
			for i := int(next.Add(1) - 1); i < n && errs[worker] == nil; i = int(next.Add(1) - 1) {
				all[i], errs[worker] = one(i)
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func with(name, value string) []byte { return rig.Request(map[string]string{name: value}) }

func bearer(token string) []byte { return with("authorization", "Bearer "+token) }

func apiKeys(_ context.Context, w *world, n int) ([][]byte, error) {
	return parallel(n, func(i int) ([]byte, error) { return with("x-api-key", w.keys[1+i]), nil })
}

func pats(ctx context.Context, w *world, n int) ([][]byte, error) {
	all, err := w.plane.tokens(ctx, n)
	if err != nil {
		return nil, err
	}
	return w.known(ctx, n, func(i int) []byte { return bearer(all[i]) }, bearer)
}

// known makes requests for what is in the store, and waits until the server has heard
// of all that was written so far.
func (w *world) known(ctx context.Context, n int, request func(i int) []byte, token func(string) []byte) ([][]byte, error) {
	last, err := w.plane.tokens(ctx, 1)
	if err != nil {
		return nil, err
	}
	if err := w.until(ctx, token(last[0])); err != nil {
		return nil, err
	}
	return parallel(n, func(i int) ([]byte, error) { return request(i), nil })
}

func jwts(by func(*world) signer) func(context.Context, *world, int) ([][]byte, error) {
	return func(_ context.Context, w *world, n int) ([][]byte, error) {
		s := by(w)
		return parallel(n, func(i int) ([]byte, error) { return bearer(w.issuer.token(s, fmt.Sprint("user-", i), nil)), nil })
	}
}

func opaque(_ context.Context, w *world, n int) ([][]byte, error) {
	return parallel(n, func(i int) ([]byte, error) { return bearer(w.issuer.opaque(fmt.Sprint("user-", i))), nil })
}

func certificates(show func(id string, der []byte) []byte) func(context.Context, *world, int) ([][]byte, error) {
	return func(_ context.Context, w *world, n int) ([][]byte, error) {
		return parallel(n, func(i int) ([]byte, error) {
			id := fmt.Sprintf("spiffe://%s/ns/shop/sa/%d", trustDomain, i)
			der, err := w.ca.workload(id)
			return show(id, der), err
		})
	}
}

func escaped(text []byte) string {
	return strings.ReplaceAll(url.QueryEscape(string(text)), "+", "%20")
}

// byXFCC is what Envoy writes with SANITIZE_SET, and cert and uri of the details.
func byXFCC(id string, der []byte) []byte {
	sum := sha256.Sum256(der)
	return with("x-forwarded-client-cert", fmt.Sprintf(`By=spiffe://%s/envoy;Hash=%s;Cert="%s";URI=%s`, trustDomain, hex.EncodeToString(sum[:]), escaped(certPEM(der)), id))
}

// bySource is what Envoy tells with include_peer_certificate.
func bySource(id string, der []byte) []byte {
	return rig.Request(nil, func(a *authv3.AttributeContext) {
		a.Source.Principal, a.Source.Certificate = id, escaped(certPEM(der))
	})
}

// bound is a token that is bound to a key, and proof a request that shows it with a new
// proof.
func bound(w *world, holder signer, name string) string {
	return w.issuer.token(w.issuer.es, name, claims{"cnf": claims{"jkt": holder.thumbprint()}})
}

func proof(holder signer, token string) []byte {
	text := holder.sign(claims{"typ": "dpop+jwt", "jwk": holder.jwk()}, claims{
		"htm": "GET", "htu": "https://" + rig.Host + rig.Path, "iat": time.Now().Unix(), "jti": rand.Text(), "ath": digest([]byte(token)),
	})
	return rig.Request(map[string]string{"authorization": "DPoP " + token, "dpop": text})
}

func dpopCold(_ context.Context, w *world, n int) ([][]byte, error) {
	return parallel(n, func(i int) ([]byte, error) {
		holder := newSigner("ES256", "")
		return proof(holder, bound(w, holder, fmt.Sprint("holder-", i))), nil
	})
}

func dpopWarm(_ context.Context, w *world, n int) ([][]byte, error) {
	holder := newSigner("ES256", "")
	token := bound(w, holder, "the holder")
	return parallel(n, func(int) ([]byte, error) { return proof(holder, token), nil })
}

func basicLogin(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func basicLogins(ctx context.Context, w *world, n int) ([][]byte, error) {
	names, err := w.plane.people(ctx, n)
	if err != nil {
		return nil, err
	}
	return w.known(ctx, n, func(i int) []byte { return with("authorization", basicLogin(names[i], password)) }, bearer)
}

func sessionCookies(ctx context.Context, w *world, n int) ([][]byte, error) {
	all, err := w.plane.sessions(ctx, n)
	if err != nil {
		return nil, err
	}
	return w.known(ctx, n, func(i int) []byte { return with("cookie", "theme=dark; __Host-session="+all[i]) }, bearer)
}

// appSessions are those of an Express application: its cookie, and what connect-redis
// keeps.
func appSessions(ctx context.Context, w *world, n int) ([][]byte, error) {
	values, ids := map[string]string{}, make([]string, n)
	for i := range ids {
		ids[i] = rand.Text()
		values["sess:"+ids[i]] = string(encode(claims{"cookie": claims{"originalMaxAge": 3600000, "httpOnly": true, "path": "/"},
			"user": claims{"id": i, "tenant": "acme", "roles": []string{rig.Role}}}))
	}
	if err := w.sessions.put(ctx, values); err != nil {
		return nil, err
	}
	return parallel(n, func(i int) ([]byte, error) {
		mac := hmac.New(sha256.New, []byte(sessionSecret))
		mac.Write([]byte(ids[i]))
		signed := "s:" + ids[i] + "." + base64.RawStdEncoding.EncodeToString(mac.Sum(nil))
		return with("cookie", "theme=dark; connect.sid="+url.QueryEscape(signed)), nil
	})
}

func vaultTokens(_ context.Context, w *world, n int) ([][]byte, error) {
	return parallel(n, func(int) ([]byte, error) {
		return with("x-vault-token", w.vault.CreateToken(vaulttest.Token{Policies: []string{"things"}, TTL: time.Hour})), nil
	})
}

const svidPath = "/svid/**"

func svids(_ context.Context, w *world, n int) ([][]byte, error) {
	return parallel(n, func(i int) ([]byte, error) {
		now := time.Now().Unix()
		token := w.mesh.sign(claims{"typ": "JWT", "kid": w.mesh.kid}, claims{
			"sub": fmt.Sprintf("spiffe://%s/ns/shop/sa/%d", trustDomain, i), "aud": []string{"bench"}, "iat": now, "exp": now + 300,
		})
		return rig.Request(map[string]string{"authorization": "Bearer " + token, ":path": "/svid/things/42"}), nil
	})
}

func assertions(id string, by func(*world) signer) func(context.Context, *world, int) ([][]byte, error) {
	return func(_ context.Context, w *world, n int) ([][]byte, error) {
		s := by(w)
		return parallel(n, func(int) ([]byte, error) {
			now := time.Now().Unix()
			return bearer(s.sign(claims{"typ": "JWT", "kid": s.kid}, claims{
				"iss": id, "sub": id, "aud": "bench", "iat": now, "exp": now + 240, "jti": rand.Text(),
			})), nil
		})
	}
}
