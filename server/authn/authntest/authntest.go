// Package authntest is the conformance suite of authenticators. Every kind of
// credential runs it, so that every kind keeps the promises of
// authn.Authenticator in the same way.
package authntest

import (
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// Suite describes one authenticator.
type Suite struct {
	// Authenticator is the one under test.
	Authenticator authn.Authenticator
	// Uses is what the extraction rule of its credentials lists.
	Uses []policy.Method
	// Good are credentials that it must accept, with the principal's id.
	Good map[string]string
	// Bad are credentials of its kind that it must refuse, with the reason.
	Bad map[string]policy.Reason
	// NotMine are credentials of other kinds.
	NotMine []string
}

// Run checks the promises.
func (s Suite) Run(t *testing.T) {
	t.Run("good", s.good)
	t.Run("bad", s.bad)
	t.Run("not mine", s.notMine)
	t.Run("garbage", s.garbage)
	t.Run("concurrent", s.concurrent)
}

func (s Suite) ask(secret string) (*authn.Proof, error) {
	return s.Authenticator.Authenticate(context.Background(), &authn.Credential{
		Uses: s.Uses, Secret: policy.NewSecret(secret), From: "test", Header: "authorization",
	})
}

func (s Suite) good(t *testing.T) {
	if len(s.Good) == 0 {
		t.Fatal("the suite needs a credential that is accepted")
	}
	for secret, id := range s.Good {
		proof, err := s.ask(secret)
		if err != nil {
			t.Fatalf("%s is refused: %v", id, err)
		}
		p := proof.Principal
		switch {
		case p.ID != id:
			t.Errorf("principal %q, want %q", p.ID, id)
		case p.Kind == "" || p.Method == "" || p.Assurance < 1 || p.Assurance > 4:
			t.Errorf("%s: kind %q, method %q and assurance %d must be set", id, p.Kind, p.Method, p.Assurance)
		case proof.State == "":
			t.Errorf("%s: state must be set", id)
		case !p.ExpiresAt.IsZero() && proof.NotAfter.IsZero():
			t.Errorf("%s expires, so its proof must", id)
		case proof.Subject == authn.Subject{}:
			t.Errorf("%s: nothing could revoke it", id)
		}
	}
}

func (s Suite) bad(t *testing.T) {
	for secret, want := range s.Bad {
		proof, err := s.ask(secret)
		var refusal *authn.Refusal
		switch {
		case proof != nil:
			t.Errorf("%v: a proof", want)
		case !errors.As(err, &refusal):
			t.Errorf("%v: %v is not a refusal", want, err)
		case refusal.Reason != want:
			t.Errorf("reason %v, want %v", refusal.Reason, want)
		case want.Status() != 401:
			t.Errorf("%v is not a 401", want)
		}
		if err != nil {
			noSecret(t, secret, err.Error())
		}
	}
}

// noSecret fails if a text holds eight bytes in a row of a secret's last third,
// where no kind of credential has anything public.
func noSecret(t *testing.T, secret, text string) {
	t.Helper()
	tail := secret[len(secret)*2/3:]
	for i := 0; i+8 <= len(tail); i++ {
		if strings.Contains(text, tail[i:i+8]) {
			t.Errorf("an error shows the credential")
			return
		}
	}
}

func (s Suite) notMine(t *testing.T) {
	for _, secret := range s.NotMine {
		if proof, err := s.ask(secret); proof != nil || !errors.Is(err, authn.ErrNotMine) {
			t.Errorf("%.12q…: %v, want ErrNotMine", secret, err)
		}
	}
}

// garbage changes good credentials in every way that comes to mind: none may be
// accepted, none may panic, and each answer must be "no", not "could not find out".
func (s Suite) garbage(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for secret := range s.Good {
		for range 500 {
			text := mutate(random, secret)
			if text == secret || s.Good[text] != "" {
				continue
			}
			proof, err := s.ask(text)
			var refusal *authn.Refusal
			if proof != nil || !errors.Is(err, authn.ErrNotMine) && !errors.As(err, &refusal) {
				t.Fatalf("a changed credential: proof %v, error %v", proof != nil, err)
			}
		}
	}
	for _, text := range []string{"", " ", ".", "..", "...", "\x00", "\xff\xfe", strings.Repeat("a", 1<<20), strings.Repeat(".", 1<<16)} {
		if proof, _ := s.ask(text); proof != nil {
			t.Errorf("%.12q is accepted", text)
		}
	}
}

func mutate(random *rand.Rand, s string) string {
	b := []byte(s)
	at := random.IntN(len(b))
	switch random.IntN(6) {
	case 0:
		b[at] ^= 1 << random.IntN(8)
	case 1:
		b = append(b[:at:at], b[at+1:]...)
	case 2:
		b = append(b[:at:at], append([]byte{byte(random.IntN(256))}, b[at:]...)...)
	case 3:
		b = b[:at]
	case 4:
		b = append(b, b[at:]...)
	default:
		other := random.IntN(len(b))
		b[at], b[other] = b[other], b[at]
	}
	return string(b)
}

// concurrent asks from many goroutines at once and checks that a principal that
// was handed out is not changed later. The race detector sees the rest.
func (s Suite) concurrent(t *testing.T) {
	for secret := range s.Good {
		first, err := s.ask(secret)
		if err != nil {
			t.Fatal(err)
		}
		before := *first.Principal
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 20 {
					if _, err := s.ask(secret); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		group.Wait()
		if !reflect.DeepEqual(before, *first.Principal) {
			t.Error("a principal changed after it was handed out")
		}
	}
}
