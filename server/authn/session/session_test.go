package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/authn/session"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/seal"
)

var _ check.CSRFTokens = (*session.Authenticator)(nil)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// index plays the mirror.
type index map[string]*record

func (ix index) ByID(id string) authn.Sealed {
	if r := ix[id]; r != nil {
		return r
	}
	return nil
}

func (ix index) ByDigest([32]byte) authn.Sealed { panic("a session is found by its id") }

// record is a session that is over after idle without use, or at its end.
type record struct {
	sum       [32]byte
	pepper    uint16
	used, end time.Time
	revoked   bool
	proof     *authn.Proof
	opened    atomic.Int64
}

const idle = 30 * time.Minute

func (r *record) Seal() (*[32]byte, uint16) { return &r.sum, r.pepper }

func (r *record) Open(now time.Time) (*authn.Proof, error) {
	r.opened.Add(1)
	switch {
	case r.revoked:
		return nil, authn.Refuse(policy.ReasonRevoked, "")
	case !now.Before(r.used.Add(idle)) || !now.Before(r.end):
		return nil, authn.Refuse(policy.ReasonExpired, "")
	}
	return r.proof, nil
}

// world is an authenticator with sessions and a clock.
type world struct {
	*session.Authenticator
	sessions index
	peppers  *seal.Peppers
	now      time.Time
}

func pepper(version int) seal.Pepper {
	return seal.Pepper{Version: version, Secret: policy.NewSecret(fmt.Sprintf("%d is the pepper of these tests only", version))}
}

func newPeppers(t testing.TB, versions ...int) *seal.Peppers {
	t.Helper()
	var list []seal.Pepper
	for _, v := range versions {
		list = append(list, pepper(v))
	}
	p, err := seal.NewPeppers(list)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{sessions: index{}, peppers: newPeppers(t, 1), now: noon}
	var err error
	w.Authenticator, err = session.New(session.Config{}, session.Deps{Index: w.sessions, Peppers: w.peppers, Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// login makes a session of the user.
func (w *world) login(t testing.TB, user string) (seal.Minted, *record) {
	t.Helper()
	m, err := seal.Mint(rand.Reader, seal.Spec{Kind: seal.KindSession}, w.peppers)
	if err != nil {
		t.Fatal(err)
	}
	r := &record{sum: m.Digest.Sum(), pepper: m.Digest.Pepper(), used: w.now, end: w.now.Add(8 * time.Hour), proof: &authn.Proof{
		Principal: &policy.Principal{ID: user, Kind: policy.KindUser, Method: policy.MethodSession, Assurance: 1, CredentialID: m.ID},
		Subject:   authn.Subject{SessionID: m.ID, ID: user}, State: policy.StateMirror,
	}}
	w.sessions[m.ID] = r
	return m, r
}

func (w *world) ask(secret string, uses ...policy.Method) (*authn.Proof, error) {
	if len(uses) == 0 {
		uses = []policy.Method{policy.MethodSession}
	}
	return w.Authenticate(context.Background(), &authn.Credential{Uses: uses, Secret: policy.NewSecret(secret)})
}

func (w *world) reason(t testing.TB, secret string) policy.Reason {
	t.Helper()
	_, err := w.ask(secret)
	var refusal *authn.Refusal
	switch {
	case err == nil:
		return policy.ReasonAllowed
	case !errors.As(err, &refusal):
		t.Fatalf("%v is no refusal", err)
	}
	return refusal.Reason
}

func TestConformance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m, _ := w.login(t, "alice")
	good := m.Secret.Reveal()
	key, err := seal.Mint(rand.Reader, seal.Spec{Kind: seal.KindKey}, w.peppers)
	if err != nil {
		t.Fatal(err)
	}
	revoked, r := w.login(t, "bob")
	r.revoked = true
	authntest.Suite{
		Authenticator: w,
		Uses:          []policy.Method{policy.MethodSession, policy.MethodJWT},
		Good:          map[string]string{good: "alice"},
		Bad: map[string]policy.Reason{
			planted(good):             policy.ReasonCredentialUnknown,
			good[:len(good)-1]:        policy.ReasonCredentialMalformed,
			good + "0":                policy.ReasonCredentialMalformed,
			revoked.Secret.Reveal():   policy.ReasonRevoked,
			"pst_ses_" + good[9:]:     policy.ReasonCredentialMalformed,
			"pst_ses_x_" + good[8:]:   policy.ReasonCredentialMalformed,
			other(good, "0", "1", 20): policy.ReasonCredentialMalformed,
		},
		NotMine: []string{key.Secret.Reveal(), "eyJ.eyJ.sig", "acme_ses_" + good[8:], "x"},
	}.Run(t)
}

// other changes the letter at a place, so that the checksum does not fit.
func other(s, a, b string, at int) string {
	if s[at:at+1] == a {
		a = b
	}
	return s[:at] + a + s[at+1:]
}

// planted is a session that an attacker made up: well formed, with its checksum.
func planted(good string) string {
	body := "pst_ses_" + strings.Repeat("0", seal.IDLen) + good[8+seal.IDLen:len(good)-seal.ChecksumLen]
	return string(seal.AppendChecksum([]byte(body), body))
}

// S-03: an id or secret that the client brings is never adopted, also not when it is
// the id of a session that exists.
func TestPlanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, _ := w.login(t, "alice")
	mallory, _ := w.login(t, "mallory")
	a, m := alice.Secret.Reveal(), mallory.Secret.Reveal()
	mixed := a[:8+seal.IDLen] + m[8+seal.IDLen:len(m)-seal.ChecksumLen] // alice's id, mallory's secret
	mixed = string(seal.AppendChecksum([]byte(mixed), mixed))
	for _, text := range []string{planted(a), mixed, alice.ID, alice.Digest.String()} {
		if r := w.reason(t, text); r != policy.ReasonCredentialUnknown {
			t.Errorf("%.24s…: %v", text, r)
		}
	}
	n := len(w.sessions)
	if w.reason(t, planted(a)); len(w.sessions) != n {
		t.Error("asking made a session")
	}
}

// S-06: a session is over after 30 minutes without use and 8 hours after login,
// whatever the cookie says. The record's clock decides, not the browser's.
func TestOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m, r := w.login(t, "alice")
	for _, step := range []struct {
		after time.Duration
		touch bool
		want  policy.Reason
	}{
		{0, false, policy.ReasonAllowed},
		{29 * time.Minute, true, policy.ReasonAllowed},
		{29 * time.Minute, false, policy.ReasonAllowed},
		{time.Minute, false, policy.ReasonExpired},
	} {
		w.now = w.now.Add(step.after)
		if got := w.reason(t, m.Secret.Reveal()); got != step.want {
			t.Errorf("at %v: %v, want %v", w.now.Sub(noon), got, step.want)
		}
		if step.touch {
			r.used = w.now
		}
	}
	for ; w.now.Before(noon.Add(8 * time.Hour)); w.now = w.now.Add(20 * time.Minute) {
		r.used = w.now
		if got := w.reason(t, m.Secret.Reveal()); got != policy.ReasonAllowed {
			t.Fatalf("at %v: %v", w.now.Sub(noon), got)
		}
	}
	r.used = w.now
	if got := w.reason(t, m.Secret.Reveal()); got != policy.ReasonExpired {
		t.Errorf("after 8 hours of use: %v", got)
	}
}

// S-10: of the 256 bits of a session nothing is kept but an HMAC, which is of no use
// to whoever reads it.
func TestDigestIsOfNoUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m, r := w.login(t, "alice")
	secret := m.Secret.Reveal()
	if len(secret) != len("pst_ses_")+seal.IDLen+1+seal.SecretLen+seal.ChecksumLen {
		t.Errorf("%d characters", len(secret))
	}
	if strings.Contains(m.Digest.String(), secret[20:40]) || bytes.Contains(r.sum[:], []byte(secret[20:30])) {
		t.Error("the secret is in its digest")
	}
	r.pepper = 0 // as if the record were of an imported secret
	if got := w.reason(t, secret); got != policy.ReasonCredentialUnknown {
		t.Errorf("without a pepper: %v", got)
	}
}

// S-10 and TIMING-05: an unknown session costs what a wrong secret costs, a tampered one
// and one that has expired. Counted, not timed. Not
// parallel: it counts every digest of the process.
func TestUnknownCostsTheSame(t *testing.T) {
	w := newWorld(t)
	m, r := w.login(t, "alice")
	good := m.Secret.Reveal()
	wrong := other(good, "0", "1", len(good)-20)
	wrong = string(seal.AppendChecksum([]byte(wrong[:len(wrong)-seal.ChecksumLen]), wrong[:len(wrong)-seal.ChecksumLen]))
	tampered := other(good, "0", "1", len(good)-30) // its checksum does not fit any more
	for name, text := range map[string]string{"good": good, "wrong": wrong, "unknown": planted(good), "tampered": tampered} {
		n := 0
		stop := seal.Observe(func() { n++ })
		_, err := w.ask(text)
		stop()
		if n != 1 || (err == nil) != (name == "good") {
			t.Errorf("%s: %d digests, %v", name, n, err)
		}
	}
	if n := r.opened.Load(); n != 1 {
		t.Errorf("a record was opened %d times, once with the right secret", n)
	}
	r.end = time.Time{}.Add(1) // long ago
	n := 0
	stop := seal.Observe(func() { n++ })
	_, err := w.ask(good)
	stop()
	if n != 1 || err == nil {
		t.Errorf("expired: %d digests, %v", n, err)
	}
}

// A text of another form is left to the others that the rule lists, and refused if
// there is none.
func TestOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := w.reason(t, "eyJ.eyJ.sig"); got != policy.ReasonCredentialUnknown {
		t.Errorf("in a place for sessions only: %v", got)
	}
	if _, err := w.ask("eyJ.eyJ.sig", policy.MethodSession, policy.MethodJWT); !errors.Is(err, authn.ErrNotMine) {
		t.Errorf("in a place for JWTs as well: %v", err)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	good := session.Deps{Index: index{}, Peppers: newPeppers(t, 1)}
	for _, c := range []struct {
		cfg  session.Config
		deps session.Deps
		ok   bool
	}{
		{session.Config{}, good, true},
		{session.Config{Prefix: "acme"}, good, true},
		{session.Config{Prefix: "A_"}, good, false},
		{session.Config{}, session.Deps{Peppers: good.Peppers}, false},
		{session.Config{}, session.Deps{Index: good.Index}, false},
		{session.Config{}, session.Deps{Index: good.Index, Peppers: newPeppers(t)}, false},
	} {
		if _, err := session.New(c.cfg, c.deps); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}

// S-05: a CSRF token is good for its session, under any pepper in force, and for
// nothing else.
func TestCSRFToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, alice := w.login(t, "alice")
	_, bob := w.login(t, "bob")
	id := alice.proof.Subject.SessionID
	token := w.CSRFToken(id).Reveal()
	if !w.VerifyCSRF(alice.proof, token) {
		t.Fatal("it is not good")
	}
	if w.CSRFToken(id).Reveal() == token {
		t.Error("two tokens are the same text")
	}
	if w.VerifyCSRF(bob.proof, token) {
		t.Error("it is good for another session")
	}
	jwt := &authn.Proof{Principal: &policy.Principal{Method: policy.MethodJWT}, Subject: authn.Subject{SessionID: id}}
	none := &authn.Proof{Principal: &policy.Principal{Method: policy.MethodSession}}
	if w.VerifyCSRF(jwt, token) || w.VerifyCSRF(none, w.CSRFToken("").Reveal()) {
		t.Error("it is good for what is no session")
	}
	for i := range len(token) {
		for _, changed := range []string{other(token, "A", "B", i), token[:i], token[:i] + "=" + token[i:], token[:i] + "\n" + token[i+1:]} {
			if changed != token && w.VerifyCSRF(alice.proof, changed) {
				t.Errorf("changed at %d it is good", i)
			}
		}
	}
	if strings.Contains(fmt.Sprint(w.CSRFToken(id)), token[:8]) {
		t.Error("it is printed")
	}

	for versions, want := range map[[2]int]bool{{2, 1}: true, {2, 3}: false} {
		next, err := session.New(session.Config{}, session.Deps{Index: w.sessions, Peppers: newPeppers(t, versions[:]...)})
		if err != nil {
			t.Fatal(err)
		}
		if next.VerifyCSRF(alice.proof, token) != want {
			t.Errorf("with the peppers %v: not %v", versions, want)
		}
	}
}

func FuzzVerifyCSRF(f *testing.F) {
	w := newWorld(f)
	_, r := w.login(f, "alice")
	f.Add("")
	f.Add(strings.Repeat("A", 67))
	f.Fuzz(func(t *testing.T, token string) {
		if w.VerifyCSRF(r.proof, token) {
			t.Errorf("%q was guessed", token)
		}
	})
}

// The way of a good session allocates nothing.
func TestAllocations(t *testing.T) {
	w := newWorld(t)
	m, _ := w.login(t, "alice")
	c := &authn.Credential{Uses: []policy.Method{policy.MethodSession}, Secret: m.Secret}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := w.Authenticate(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	w := newWorld(b)
	m, _ := w.login(b, "alice")
	c := &authn.Credential{Uses: []policy.Method{policy.MethodSession}, Secret: m.Secret}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Authenticate(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}
