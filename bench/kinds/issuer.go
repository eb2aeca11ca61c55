package main

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// issuer is an authorization server: it signs tokens, publishes its keys and where they
// are, and answers about opaque tokens (RFC 7662). It counts what it is asked.
type issuer struct {
	url        string
	rs, es, ed signer
	fetched    atomic.Int64 // its keys
	asked      atomic.Int64 // about tokens
	slow       atomic.Int64 // nanoseconds before an answer about a token
	mu         sync.Mutex
	about      map[string]claims // of active tokens
}

const issuerSecret = "the-secret-of-postern-at-the-issuer"

func newIssuer() *issuer {
	return &issuer{rs: newSigner("RS256", "rs"), es: newSigner("ES256", "es"), ed: newSigner("EdDSA", "ed"), about: map[string]claims{}}
}

func (s *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"introspection_endpoint":%q}`, s.url, s.url+"/jwks", s.url+"/introspect")
	case "/jwks":
		s.fetched.Add(1)
		_, _ = w.Write(keySet("sig", s.rs, s.es, s.ed))
	case "/introspect":
		s.introspect(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *issuer) introspect(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	time.Sleep(time.Duration(s.slow.Load()))
	if id, secret, _ := r.BasicAuth(); id != "postern" || secret != issuerSecret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	about, active := s.about[r.PostFormValue("token")]
	s.mu.Unlock()
	if !active {
		_, _ = w.Write([]byte(`{"active":false}`))
		return
	}
	_, _ = w.Write(encode(about))
}

// who are the claims of a user with the role. Each name is another user.
func (s *issuer) who(name string) claims {
	now := time.Now().Unix()
	return claims{
		"iss": s.url, "aud": "bench", "sub": name, "exp": now + 3600, "iat": now, "jti": rand.Text(), "client_id": "web", "org": "acme",
		"roles": []string{rig.Role, "role8"}, "scope": "openid profile things:read", "email": "somebody@example.com", "name": "Some Body", "locale": "en",
	}
}

// token is an access token of a user (RFC 9068). More claims may come on top.
func (s *issuer) token(by signer, name string, more claims) string {
	body := s.who(name)
	maps.Copy(body, more)
	return by.sign(claims{"typ": "at+jwt", "kid": by.kid}, body)
}

// opaque issues an opaque token of a user.
func (s *issuer) opaque(name string) string {
	token := "opaque-" + rand.Text()
	about := s.who(name)
	about["active"], about["token_type"] = true, "Bearer"
	s.mu.Lock()
	defer s.mu.Unlock()
	s.about[token] = about
	return token
}
