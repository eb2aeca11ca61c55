package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// goodOpaque is how opaque tokens begin that are good, and introspects how long the issuer
// thinks about one.
const (
	goodOpaque  = "opaque-good-"
	introspects = 100 * time.Millisecond
)

// issuer is an OpenID provider as far as Postern asks one: it says where its keys are, and
// what they are. It can be taken away.
type issuer struct {
	url    string
	server *http.Server
	dead   atomic.Bool
	asked  atomic.Int64

	keep atomic.Bool // publishes all keys that it ever had

	mu   sync.Mutex
	keys []signer // the newest last
}

func newIssuer() (*issuer, error) {
	s := &issuer{keys: []signer{newSigner("k0")}}
	on, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.url = "http://" + on.Addr().String()
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Second}
	go func() { _ = s.server.Serve(on) }()
	return s, nil
}

func (s *issuer) close() { _ = s.server.Close() }

// ServeHTTP implements http.Handler.
func (s *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	if s.dead.Load() {
		panic(http.ErrAbortHandler) // the connection ends without an answer
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(claims{"issuer": s.url, "jwks_uri": s.url + "/jwks"})
	case "/jwks":
		s.mu.Lock()
		defer s.mu.Unlock()
		all := []claims{}
		for _, k := range s.keys {
			all = append(all, k.jwk())
		}
		_ = json.NewEncoder(w).Encode(claims{"keys": all})
	case "/introspect":
		time.Sleep(introspects)
		if strings.HasPrefix(r.PostFormValue("token"), goodOpaque) {
			about := s.body("opaque", 0, day)
			about["iss"], about["active"], about["token_type"] = "http://opaque.test", true, "Bearer"
			_ = json.NewEncoder(w).Encode(about)
			return
		}
		_ = json.NewEncoder(w).Encode(claims{"active": false})
	default:
		http.NotFound(w, r)
	}
}

// rotate signs with another key from now on, and still publishes the one before.
func (s *issuer) rotate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := max(0, len(s.keys)-1)
	if s.keep.Load() {
		from = 0
	}
	s.keys = append(s.keys[from:], newSigner("k"+rand.Text()))
}

// token is one of a user with the role, good from and until some time from now.
func (s *issuer) token(user string, from, until time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[len(s.keys)-1].sign(s.body(user, from, until))
}

func (s *issuer) body(user string, from, until time.Duration) claims {
	now := time.Now()
	return claims{
		"iss": s.url, "aud": "bench", "sub": user, "iat": now.Add(from).Unix(), "nbf": now.Add(from).Unix(), "exp": now.Add(until).Unix(),
		"jti": rand.Text(), "client_id": "web", "roles": []string{rig.Role},
	}
}

// block is what a configuration says of it. More are settings of its keys.
func (s *issuer) block(more string) string {
	return fmt.Sprintf("issuers: [{ url: %q, audiences: [bench], algorithms: [EdDSA], claims: { roles: roles }, keys: { insecure_allow_http: true, insecure_allow_private_addresses: true%s } }]\n", s.url, more)
}
