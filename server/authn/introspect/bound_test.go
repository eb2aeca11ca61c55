package introspect_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/introspect"
	"github.com/postern-auth/postern/server/jose"
)

// T-03: a JWT that says itself what it is bound to stays bound, whatever the answer about
// it leaves out; and two that differ are no reason to choose.
func TestBoundByItself(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.ParseSigningKey(pemOf(t, private))
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{}
	cfg := config()
	cfg.SetDefaults()
	cfg.AcceptJWTs, cfg.Method = true, policy.MethodJWT
	a := made(t, i, cfg)
	one, other := strings.Repeat("\x01", 32), strings.Repeat("\x02", 32)
	sum := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for name, tt := range map[string]struct {
		token, answer any
		want          string
		confirm       authn.Confirmation
	}{
		"neither":             {nil, nil, "alice", authn.Confirmation{}},
		"the answer alone":    {nil, members{"jkt": sum(one)}, "alice", authn.Confirmation{Key: sum(one)}},
		"the token alone":     {members{"jkt": sum(one)}, nil, "alice", authn.Confirmation{Key: sum(one)}},
		"a certificate":       {members{"x5t#S256": sum(one)}, nil, "alice", authn.Confirmation{Certificate: hex.EncodeToString([]byte(one))}},
		"the same":            {members{"jkt": sum(one)}, members{"jkt": sum(one)}, "alice", authn.Confirmation{Key: sum(one)}},
		"one of each":         {members{"jkt": sum(one)}, members{"x5t#S256": sum(other)}, "alice", authn.Confirmation{Key: sum(one), Certificate: hex.EncodeToString([]byte(other))}},
		"another key":         {members{"jkt": sum(one)}, members{"jkt": sum(other)}, "binding", authn.Confirmation{}},
		"another certificate": {members{"x5t#S256": sum(one)}, members{"x5t#S256": sum(other)}, "binding", authn.Confirmation{}},
		"not known here":      {members{"kid": "k"}, nil, "binding", authn.Confirmation{}},
	} {
		claims := active("alice").with("cnf", tt.token).with("jti", name)
		delete(claims, "active")
		delete(claims, "token_type")
		if tt.token == nil {
			delete(claims, "cnf")
		}
		token, err := signer.Sign("at+jwt", "k", claims)
		if err != nil {
			t.Fatal(err)
		}
		answer := active("alice").with("cnf", tt.answer)
		if tt.answer == nil {
			delete(answer, "cnf")
		}
		i.set(token, answer.json())
		proof, err := a.Authenticate(t.Context(), credential(token))
		if got := outcome(proof, err); got != tt.want && !(tt.want == "binding" && got == policy.ReasonBinding.String()) {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		if proof != nil && proof.Confirm != tt.confirm {
			t.Errorf("%s: %+v", name, proof.Confirm)
		}
	}
}

// Strangers who keep all turns taken with tokens that they make up cost the others time,
// but do not open the breaker: a question has all of its time when its turn has come.
func TestCrowdDoesNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		i.will(func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(200 * time.Millisecond):
				return reply(200, "application/json", `{"active":false}`), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})
		cfg := config()
		cfg.MaxConcurrent = 2
		a, err := introspect.New(cfg, introspect.Deps{Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		outcomes := make(chan string, 100)
		for n := range 100 {
			go func() {
				time.Sleep(time.Duration(n) * 20 * time.Millisecond)
				outcomes <- outcome(a.Authenticate(t.Context(), credential(fmt.Sprintf("opaque-%d", n))))
			}()
		}
		count := map[string]int{}
		for range 100 {
			count[<-outcomes]++
		}
		if s := a.Status(); !s.Usable || s.Failures != 0 || count["unreachable"] != 0 {
			t.Errorf("%+v, %v", s, count)
		}
	})
}
