package authn_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// signatures is an authenticator of tokens: those that say "bad" have a wrong signature.
type signatures struct {
	proven atomic.Int64
	takes  time.Duration
}

func (s *signatures) Authenticate(_ context.Context, c *authn.Credential) (*authn.Proof, error) {
	s.proven.Add(1)
	time.Sleep(s.takes)
	switch c.Secret.Reveal()[:3] {
	case "bad":
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, "wrong")
	case "nok":
		return nil, authn.RefuseNoKey("no key")
	}
	return &authn.Proof{Principal: &policy.Principal{ID: "x"}}, nil
}

// flooded is a cache with a bound on unknown credentials, and who asks it.
type flooded struct {
	*authn.Cached
	behind *signatures
	effort *authn.Effort
	n      int
}

func newFlooded() *flooded {
	f := &flooded{behind: &signatures{}, effort: authn.NewEffort(nil)}
	f.Cached = authn.NewCached(f.behind, authn.CacheConfig{Effort: f.effort})
	return f
}

func (f *flooded) ask(kind, from string) error {
	f.n++
	c := &authn.Credential{Secret: policy.NewSecret(fmt.Sprint(kind, f.n))}
	if from != "" {
		c.Client = netip.MustParseAddr(from)
	}
	_, err := f.Authenticate(context.Background(), c)
	return err
}

// RESOURCE-03: what a source sends with wrong signatures is checked up to a bound, and
// then refused unread; others are not concerned, and when the time is over neither is
// the source.
func TestEffortOfOneSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlooded()
		f.behind.takes = 10 * time.Millisecond // a hundred a second
		refused := 0
		for i := range 3000 {
			// An IPv6 client is all of its network.
			if errors.Is(f.ask("bad", fmt.Sprintf("2001:db8::%x", i+1)), authn.ErrOverloaded) {
				refused++
			}
		}
		if n := f.behind.proven.Load(); n != 501 || refused != 2499 { // one of them is spare
			t.Errorf("%d of 3,000 were checked, %d refused", n, refused)
		}
		if err := f.ask("good", "2001:db8::1"); !errors.Is(err, authn.ErrOverloaded) {
			t.Errorf("the source: %v", err)
		}
		time.Sleep(3 * f.behind.takes)
		if err := f.ask("good", "2001:db8::1"); err != nil {
			t.Errorf("the source, when nobody else wants anything: %v", err)
		}
		for range 100 {
			if err := f.ask("good", "192.0.2.1"); err != nil {
				t.Fatalf("another source: %v", err)
			}
		}
		if f.effort.Refused() != 2500 {
			t.Errorf("%d refused", f.effort.Refused())
		}
		time.Sleep(10 * time.Second)
		if err := f.ask("good", "2001:db8::1"); err != nil {
			t.Errorf("ten seconds later: %v", err)
		}
	})
}

// RESOURCE-03: where many sources send what is wrong, those that did are refused, and
// those that did not are heard; what is remembered is not asked about at all.
func TestEffortOfMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlooded()
		known := &authn.Credential{Secret: policy.NewSecret("good, and known"), Client: netip.MustParseAddr("10.0.0.1")}
		if _, err := f.Authenticate(t.Context(), known); err != nil {
			t.Fatal(err)
		}
		f.behind.takes = time.Millisecond
		for i := range 100 * 250 {
			_ = f.ask("bad", fmt.Sprintf("10.0.%d.%d", i%100, 1))
		}
		if n := f.behind.proven.Load(); n != 202 { // the first, and one that is spare
			t.Errorf("%d were checked", n)
		}
		if err := f.ask("good", "10.1.0.1"); err != nil {
			t.Errorf("a source that sent nothing wrong: %v", err)
		}
		if err := f.ask("good", "10.0.7.1"); !errors.Is(err, authn.ErrOverloaded) {
			t.Errorf("one that did: %v", err)
		}
		if _, err := f.Authenticate(t.Context(), known); err != nil {
			t.Errorf("what is remembered: %v", err)
		}
		time.Sleep(time.Second)
		if err := f.ask("good", "10.0.7.1"); err != nil {
			t.Errorf("a second later: %v", err)
		}
	})
}

// Those who come by a gateway that does not say for whom it asks share a wider bound.
func TestEffortOfNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFlooded()
		f.behind.takes = time.Millisecond
		for range 1999 {
			_ = f.ask("bad", "")
		}
		if err := f.ask("good", ""); err != nil {
			t.Error(err)
		}
		_ = f.ask("bad", "")
		_ = f.ask("bad", "") // by what is spare
		if err := f.ask("good", ""); !errors.Is(err, authn.ErrOverloaded) {
			t.Error(err)
		}
	})
}

// A token whose key nobody knows costs nothing, and nobody is refused for it.
func TestEffortOfNoKeys(t *testing.T) {
	t.Parallel()
	f := newFlooded()
	for range 3000 {
		var no *policy.Refusal
		if err := f.ask("nokey", "192.0.2.1"); !errors.As(err, &no) || no.Reason != policy.ReasonSignatureInvalid {
			t.Fatal(err)
		}
	}
	if err := f.ask("good", "192.0.2.1"); err != nil {
		t.Error(err)
	}
}
