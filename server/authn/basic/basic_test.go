package basic_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/authn/basic"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/strictyaml"
	"github.com/postern-auth/postern/server/vectortest"
)

var _ basic.Hasher = (*password.Hasher)(nil)

// home and away are where the clients of these tests come from.
var home, away = netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.7")

// user plays what the mirror knows of somebody, and the password that the store knows.
type user struct {
	mu       sync.Mutex
	name     string
	version  int64
	password string
	disabled bool
	roles    []string
}

func (u *user) change(f func(*user)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f(u)
	u.version++
}

func (u *user) Version() authn.Version {
	u.mu.Lock()
	defer u.mu.Unlock()
	return authn.Version{Epoch: "e", Change: u.version}
}

func (u *user) Alive() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.disabled {
		return authn.Refuse(policy.ReasonDisabled, "disabled")
	}
	return nil
}

func (u *user) Open() (*policy.Principal, authn.Version, error) {
	if err := u.Alive(); err != nil {
		return nil, authn.Version{}, err
	}
	return &policy.Principal{ID: u.name, Kind: policy.KindUser, Tenant: "acme", Roles: u.roles, Issuer: seal.Issuer}, u.Version(), nil
}

// world is an authenticator with a store of users and a clock.
type world struct {
	*basic.Authenticator
	t      testing.TB
	users  map[string]*user
	client netip.Addr
	now    time.Time
	hashed atomic.Int64
	// during runs while a password is checked; err is what becomes of the check.
	during func(context.Context)
	err    error
}

func (w *world) Person(tenant, name string) authn.Person {
	if u := w.users[name]; u != nil && tenant == "acme" {
		return u
	}
	return nil
}

func (w *world) verify(ctx context.Context, t basic.Try) (bool, error) {
	w.hashed.Add(1)
	if w.during != nil {
		w.during(ctx)
	}
	u := w.users[t.Name]
	if u == nil || t.Tenant != "acme" {
		return false, w.err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return t.Password.Reveal() == u.password && !u.disabled, w.err
}

func newWorld(t testing.TB, change ...func(*basic.Config)) *world {
	t.Helper()
	w := &world{t: t, client: home, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), users: map[string]*user{}}
	for _, name := range []string{"alice", "bob"} {
		w.users[name] = &user{name: name, version: 1, password: "correct horse", roles: []string{"reader"}}
	}
	cfg := basic.Config{Zones: []string{"office"}, Tenant: "acme"}
	cfg.SetDefaults()
	for _, c := range change {
		c(&cfg)
	}
	var err error
	w.Authenticator, err = basic.New(cfg, basic.Deps{
		People: w, Verify: w.verify, Now: func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func credential(user, secret string, uses ...policy.Method) *authn.Credential {
	if len(uses) == 0 {
		uses = []policy.Method{policy.MethodBasic}
	}
	return &authn.Credential{Uses: uses, User: user, Secret: policy.NewSecret(secret), Scheme: "basic", Header: "authorization"}
}

func (w *world) ask(user, secret string) (*authn.Proof, error) {
	c := credential(user, secret)
	c.Client = w.client
	return w.Authenticate(w.t.Context(), c)
}

// good and bad fail unless the answer is yes, and no for the one reason that tells
// nothing.
func (w *world) good(user, secret string) *authn.Proof {
	w.t.Helper()
	p, err := w.ask(user, secret)
	if err != nil {
		w.t.Fatalf("%s: %v", user, err)
	}
	return p
}

func (w *world) bad(user, secret string) {
	w.t.Helper()
	p, err := w.ask(user, secret)
	var refusal *authn.Refusal
	if p != nil || !errors.As(err, &refusal) || refusal.Reason != policy.ReasonCredentialUnknown {
		w.t.Errorf("%s: %v, %v", user, p != nil, err)
	}
}

func (w *world) hashes(want int64) {
	w.t.Helper()
	if n := w.hashed.Swap(0); n != want {
		w.t.Errorf("%d hashes, want %d", n, want)
	}
}

// split lets the conformance suite bring user and password in one text.
type split struct{ next authn.Authenticator }

func (s split) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	own := *c
	user, secret, ok := strings.Cut(c.Secret.Reveal(), ":")
	if own.Scheme = "basic"; !ok {
		own.Scheme = "bearer"
	}
	own.User, own.Secret = user, policy.NewSecret(secret)
	return s.next.Authenticate(ctx, &own)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *basic.Config) { c.Tries = 1000 })
	minted, err := seal.Mint(rand.Reader, seal.Spec{Kind: seal.KindPAT}, peppers(t))
	if err != nil {
		t.Fatal(err)
	}
	authntest.Suite{
		Authenticator: split{w}, Uses: []policy.Method{policy.MethodPAT, policy.MethodBasic},
		Good: map[string]string{"alice:correct horse": "alice"},
		Bad: map[string]policy.Reason{
			"alice:wrong": policy.ReasonCredentialUnknown, "mallory:correct horse": policy.ReasonCredentialUnknown, ":correct horse": policy.ReasonCredentialUnknown,
		},
		NotMine: []string{"a bearer token", "alice:" + minted.Secret.Reveal()},
	}.Run(t)
}

func peppers(t testing.TB) *seal.Peppers {
	t.Helper()
	p, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret("a pepper for the tests of Basic, long enough")}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// B-03: a password is the weakest proof, and the principal is the user whose it is.
func TestPrincipal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.good("alice", "correct horse"), w.good("alice", "correct horse")
	p := first.Principal
	if p.ID != "alice" || p.Tenant != "acme" || p.Kind != policy.KindUser || p.Method != policy.MethodBasic || p.Assurance != 1 || p.Issuer != seal.Issuer ||
		!slices.Equal(p.AMR, []string{"pwd"}) || !slices.Equal(p.Roles, []string{"reader"}) || !p.AuthTime.Equal(w.now) {
		t.Errorf("%+v", p)
	}
	if first.State != policy.StateStore || second.State != policy.StateMirror || second.Principal != p {
		t.Errorf("%v, then %v", first.State, second.State)
	}
	if s := second.Subject; s.ID != "alice" || s.Tenant != "acme" || s.Issuer != seal.Issuer || !s.IssuedAt.Equal(w.now) || !second.NotAfter.Equal(w.now.Add(time.Minute)) {
		t.Errorf("%+v, until %v", s, second.NotAfter)
	}
}

// B-04, CACHE-12: a password that was right is not hashed again for a minute, and not
// believed any longer than anything about its user stays as it was.
func TestRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.users["alice"]
	w.good("alice", "correct horse")
	w.good("alice", "correct horse")
	w.hashes(1)
	w.bad("alice", "correct hors")
	w.bad("bob", "wrong")
	w.hashes(2) // nothing of another password, or of another user

	alice.change(func(u *user) { u.password = "another" })
	w.bad("alice", "correct horse")
	w.good("alice", "another")
	w.hashes(2)

	alice.change(func(u *user) { u.roles = []string{"admin"} })
	if p := w.good("alice", "another"); p.Principal.Roles[0] != "admin" {
		t.Errorf("%v", p.Principal.Roles)
	}
	w.hashes(1)

	// Its tenant is disabled, which leaves the user's own record as it is.
	alice.mu.Lock()
	alice.disabled = true
	alice.mu.Unlock()
	var refusal *authn.Refusal
	if _, err := w.ask("alice", "another"); !errors.As(err, &refusal) || refusal.Reason != policy.ReasonDisabled {
		t.Errorf("%v", err)
	}
	w.hashes(0)
	alice.change(func(u *user) { u.disabled = false })

	w.good("alice", "another")
	w.hashes(1)
	w.now = w.now.Add(time.Minute - 1)
	w.good("alice", "another")
	w.hashes(0)
	w.now = w.now.Add(1)
	w.good("alice", "another")
	w.hashes(1)
	if s := w.Status(); s.Right != 5 || s.Wrong != 3 || s.Cached != 3 {
		t.Errorf("%+v", s)
	}
}

// What changes while a password is being checked is not remembered as it was before.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.during = func(context.Context) { w.users["alice"].change(func(u *user) { u.roles = nil }) }
	if p := w.good("alice", "correct horse"); p.Principal.Roles != nil {
		t.Errorf("%v", p.Principal.Roles)
	}
	w.during = nil
	w.good("alice", "correct horse")
	w.hashes(2)
}

// A password can be right in the store before this replica has heard of its user: then
// nobody knows what the user may do.
func TestUnseen(t *testing.T) {
	t.Parallel()
	cfg := basic.Config{InsecureAnywhere: true}
	a, err := basic.New(cfg, basic.Deps{People: nobody{}, Verify: func(context.Context, basic.Try) (bool, error) { return true, nil }})
	if err != nil {
		t.Fatal(err)
	}
	var refusal *authn.Refusal
	if p, err := a.Authenticate(t.Context(), credential("alice", "x")); p != nil || err == nil || errors.As(err, &refusal) {
		t.Errorf("%v, %v", p, err)
	}
}

type nobody struct{}

func (nobody) Person(string, string) authn.Person { return nil }

// With a context that is over, the answer comes from RAM or not at all; and a check goes
// on when the one who asked for it has left.
func TestWithoutTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		var refusal *authn.Refusal
		if _, err := w.Authenticate(over, credential("alice", "correct horse")); err == nil || errors.As(err, &refusal) {
			t.Errorf("%v", err)
		}
		w.hashes(0)

		w.during = func(ctx context.Context) {
			if _, limited := ctx.Deadline(); !limited {
				t.Error("a check without an end")
			}
			time.Sleep(2 * time.Second)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Authenticate(short, credential("alice", "correct horse")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, err := w.Authenticate(over, credential("alice", "correct horse")); err != nil {
			t.Errorf("not remembered: %v", err)
		}
		w.hashes(1)
	})
}

// B-06: five wrong passwords lock a user for the address that they came from, whether or
// not there is such a user, and not for others. Nothing is hashed then, and a password
// that is remembered cannot be found by guessing on (TIMING-04).
func TestLockout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.good("alice", "correct horse")
	w.hashes(1)
	w.client = away
	for _, name := range []string{"alice", "nobody"} {
		for i := range 5 {
			w.bad(name, fmt.Sprint(i))
		}
		w.hashes(5)
		w.bad(name, "correct horse")
		w.hashes(0)
	}
	w.good("bob", "correct horse")
	w.client = home
	w.good("alice", "correct horse")
	w.client = away
	w.now = w.now.Add(15*time.Minute - 1)
	w.bad("alice", "correct horse")
	w.now = w.now.Add(1)
	w.good("alice", "correct horse")
	w.hashes(2)
	for range 4 { // a right one forgets the wrong ones
		for range 4 {
			w.bad("bob", "wrong")
		}
		w.good("bob", "correct horse")
		w.now = w.now.Add(time.Minute)
	}
	if s := w.Status(); s.Locked != 3 {
		t.Errorf("%+v", s)
	}
}

// Somebody who guesses locks out neither everybody behind the same proxy nor a user at
// the places where that user is known; newcomers there have to wait.
func TestLockoutSpreads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *basic.Config) { c.CacheTTL = 0 })
	w.good("alice", "correct horse")
	for i := range 30 { // through the proxy that alice uses as well
		for range 5 {
			w.bad(fmt.Sprint("name", i), "123456")
		}
	}
	w.hashes(1 + 100)
	w.good("alice", "correct horse")
	w.bad("bob", "correct horse") // who was never seen there
	w.hashes(1)

	w.now = w.now.Add(15 * time.Minute)
	w.good("bob", "correct horse")
	for i := range 250 { // from many places at once
		w.client = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		w.bad("alice", "123456")
	}
	w.hashes(1 + 100)
	w.bad("alice", "correct horse")
	w.client = home
	w.good("alice", "correct horse")
	w.hashes(1)

	// A /64 is one place.
	w.now = w.now.Add(15 * time.Minute)
	for i := range 9 {
		w.client = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i))
		w.bad("bob", "123456")
	}
	w.hashes(5)
	w.client = netip.MustParseAddr("2001:db8:0:1::1")
	w.good("bob", "correct horse")
}

// What could not be found out is no wrong password, and no right one.
func TestFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.err = fmt.Errorf("the store: %w", authn.ErrUnreachable)
	var refusal *authn.Refusal
	for range 9 {
		if p, err := w.ask("alice", "correct horse"); p != nil || !errors.Is(err, authn.ErrUnreachable) || errors.As(err, &refusal) {
			t.Fatalf("%v", err)
		}
	}
	w.err = nil
	w.good("alice", "correct horse")
	w.hashes(10)
	w.during = func(context.Context) { panic("a secret") }
	if p, err := w.ask("bob", "correct horse"); p != nil || err == nil || errors.As(err, &refusal) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// B-06: of a thousand wrong passwords at once, a few are checked, some wait, and the
// rest is turned away at once, which is not a no.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *basic.Config) { c.Workers, c.Queue = 2, 8 })
	var running, most, busy, no atomic.Int64
	open := make(chan struct{})
	w.during = func(context.Context) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-open
		running.Add(-1)
	}
	w.client = netip.Addr{}
	var all, turned sync.WaitGroup
	turned.Add(1000 - 10)
	for i := range 1000 {
		all.Go(func() {
			_, err := w.ask(fmt.Sprint("user", i), "wrong")
			var refusal *authn.Refusal
			switch {
			case errors.Is(err, password.ErrBusy):
				busy.Add(1)
				turned.Done()
			case errors.As(err, &refusal):
				no.Add(1)
			}
		})
	}
	turned.Wait()
	close(open)
	all.Wait()
	if busy.Load() != 990 || no.Load() != 10 || most.Load() > 2 {
		t.Errorf("%d turned away, %d no, %d at once", busy.Load(), no.Load(), most.Load())
	}
	if s := w.Status(); s.Failed != 990 || s.Wrong != 10 || s.Running != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
}

// A thousand who bring the same pair at once cost one check.
func TestOneFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.during = func(context.Context) { time.Sleep(time.Second) }
		for range 1000 {
			go w.good("alice", "correct horse")
		}
		time.Sleep(2 * time.Second)
		w.hashes(1)
		w.good("alice", "correct horse")
		w.hashes(0)
	})
}

// CACHE-17: pairs that are being checked at the same moment never get each other's
// answer, whatever they have in common.
func TestNoSharedAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *basic.Config) { c.Tries, c.Queue, c.CacheTTL = 1000, 1000, 0 })
	var group sync.WaitGroup
	for i := range 2000 {
		client := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		ask := func(user, secret string, want bool) {
			c := credential(user, secret)
			c.Client = client
			p, err := w.Authenticate(t.Context(), c)
			var refusal *authn.Refusal
			if (p != nil) != want || want && p.Principal.ID != user || !want && !errors.As(err, &refusal) {
				t.Errorf("%s from %v: %v, %v", user, client, p != nil, err)
			}
		}
		group.Go(func() { ask("alice", "correct horse", true) })
		group.Go(func() { ask("mallory", "correct horse", false) })
		if i%10 == 0 {
			group.Go(func() { ask("alice", "wrong horse", false) })
		}
		if i%64 == 0 {
			group.Wait()
			w.now = w.now.Add(time.Hour)
		}
	}
	group.Wait()
}

// A user-id names a tenant only where the configuration says how, and never one that no
// tenant can be.
func TestTenants(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ separator, user, tenant, name string }{
		{"", "alice", "acme", "alice"}, {"", "other/alice", "acme", "other/alice"}, {"", "alice@other", "acme", "alice@other"},
		{"/", "alice", "acme", "alice"}, {"/", "other/alice", "other", "alice"}, {"/", "other/a/b", "other", "a/b"}, {"/", "/alice", "/", "alice"}, {"/", "other/", "other", ""},
		{`\`, `other\alice`, "other", "alice"}, {`\`, `a/b\alice`, "/", "alice"}, {`\`, `\alice`, "/", "alice"},
		{"@", "alice@other", "other", "alice"}, {"@", "alice@example.com@other", "other", "alice@example.com"}, {"@", "alice@", "/", "alice"}, {"@", "b@acme/alice", "/", "b"}, {"@", "alice", "acme", "alice"},
	} {
		if tenant, name := basic.Who(basic.Config{Tenant: "acme", TenantSeparator: c.separator}, c.user); tenant != c.tenant || name != c.name {
			t.Errorf("%q, %q: %q, %q", c.separator, c.user, tenant, name)
		}
	}
	w := newWorld(t, func(c *basic.Config) { c.TenantSeparator = "/" })
	w.good("acme/alice", "correct horse")
	w.bad("other/alice", "correct horse")
	w.bad("/alice", "correct horse")
}

// lines writes a htpasswd file of cheap hashes.
func lines(t testing.TB, users ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "htpasswd")
	write(t, name, users...)
	return name
}

func write(t testing.TB, name string, users ...string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("# users\n\n")
	for i := 0; i < len(users); i += 2 {
		user, roles, _ := strings.Cut(users[i], "=")
		hash, err := bcrypt.GenerateFromPassword([]byte(users[i+1]), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(user + ":" + string(hash))
		if roles != "" {
			b.WriteString(":" + roles)
		}
		b.WriteString("\n")
	}
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ofFile is an authenticator of a file alone.
func ofFile(t testing.TB, name string) *basic.Authenticator {
	t.Helper()
	cfg := basic.Config{InsecureAnywhere: true, HtpasswdFile: strictyaml.Path(name)}
	cfg.SetDefaults()
	a, err := basic.New(cfg, basic.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// B-02: all vectors, through extraction, with the users that they are about.
func TestVectors(t *testing.T) {
	t.Parallel()
	a := ofFile(t, lines(t,
		"Aladdin", "open sesame", "test", "123£", "alice", "pa:ss:word",
		"bob", strings.Repeat("p", 72), "carol", strings.Repeat("q", 72),
	))
	at, err := authn.ParseLocation("header:authorization/basic")
	if err != nil {
		t.Fatal(err)
	}
	extractor := authn.NewExtractor([]authn.Rule{{From: at, Uses: []policy.Method{policy.MethodBasic}}})
	type vector struct {
		ID, Authorization, Expect, Why string
		User                           *string
	}
	allowed, denied := 0, 0
	for _, v := range vectortest.Lines[vector](t, "http/basic.jsonl") {
		header := &policy.Attributes{Headers: policy.Headers{{Name: "authorization", Value: v.Authorization}}}
		found, err := extractor.Find(nil, header, &policy.Request{}, nil)
		var p *authn.Proof
		if err == nil {
			p, err = a.Authenticate(t.Context(), &found[0])
		}
		var refusal *authn.Refusal
		if err != nil && !errors.As(err, &refusal) {
			t.Errorf("%s (%s): %v is no refusal", v.ID, v.Why, err)
		}
		switch {
		case p != nil:
			allowed++
			if v.Expect == "deny" || p.Principal.ID != *v.User {
				t.Errorf("%s (%s): allowed as %s", v.ID, v.Why, p.Principal.ID)
			}
		default:
			denied++
			if v.Expect == "allow" {
				t.Errorf("%s (%s): %v", v.ID, v.Why, err)
			}
		}
	}
	t.Logf("%d allowed, %d denied", allowed, denied)
}

// B-07: users of a file of bcrypt, Argon2id and PBKDF2 hashes, with roles; it is read
// again when it changes, whole or not at all.
func TestFile(t *testing.T) {
	t.Parallel()
	name := lines(t, "alice=reader,writer", "correct horse", "bob", "battery staple")
	a := ofFile(t, name)
	ask := func(user, secret string) *policy.Principal {
		t.Helper()
		p, err := a.Authenticate(t.Context(), credential(user, secret))
		var refusal *authn.Refusal
		if err != nil && !errors.As(err, &refusal) {
			t.Fatal(err)
		}
		if err != nil {
			return nil
		}
		if p.State != policy.StateNone {
			t.Errorf("%s: %v", user, p.State)
		}
		return p.Principal
	}
	if p := ask("alice", "correct horse"); p == nil || !slices.Equal(p.Roles, []string{"reader", "writer"}) || p.Issuer != "htpasswd" || p.Assurance != 1 {
		t.Errorf("%+v", p)
	}
	if ask("bob", "battery staple") == nil || ask("bob", "correct horse") != nil || ask("carol", "correct horse") != nil {
		t.Error("bob or carol")
	}

	write(t, name, "alice=reader", "another", "carol", "correct horse")
	if err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ask("alice", "correct horse") != nil || ask("bob", "battery staple") != nil || ask("carol", "correct horse") == nil {
		t.Error("the file before is in force")
	}
	if p := ask("alice", "another"); p == nil || len(p.Roles) != 1 {
		t.Errorf("%+v", p)
	}

	for text, want := range map[string]string{
		"alice:correct horse\n":                        "htpasswd:1: ",
		"\nalice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n":  "htpasswd:2: ",
		"alice:$apr1$c3RhcnQ$5u2dU3Lw4oB1Qw2JX9T8k1\n": "htpasswd -B",
		"alice\n": "is not user:hash",
		":$2b$05$abcdefghijklmnopqrstuu" + sum + "\n":                 "a user has",
		"a:$2b$05$abcdefghijklmnopqrstuu" + sum + ":*\n":              "a role is",
		"a:$2b$05$abcdefghijklmnopqrstuu" + sum + ":a,\n":             "a role is",
		"\ufeffa:$2b$05$abcdefghijklmnopqrstuu" + sum:                 "is not a text",
		"a:$2b$05$abcdefghijklmnopqrstuu" + sum + ":a:b\n":            "is not user:hash",
		strings.Repeat("a:$2b$05$abcdefghijklmnopqrstuu"+sum+"\n", 2): "htpasswd:2: names a user who is there already",
		"a:" + strings.Repeat("x", 5000):                              "is not a text",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := a.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "correct horse") || strings.Contains(err.Error(), sum) {
			t.Errorf("%.30q: %v, want %q", text, err, want)
		}
	}
	if ask("carol", "correct horse") == nil || a.Status().FileUsers != 2 {
		t.Error("a bad file is in force")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(t.Context()); err == nil || ask("carol", "correct horse") == nil {
		t.Errorf("%v", err)
	}
}

const sum = "eTFRGDqVFTIfwSnwEw/V4ZpLYuQbKSG"

// A name of the file is not looked for in the store, and the two are different people.
func TestFileBeforeStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *basic.Config) {
		c.HtpasswdFile = strictyaml.Path(lines(t, "alice", "of the file"))
	})
	if p := w.good("alice", "of the file"); p.Principal.Issuer != "htpasswd" || p.Principal.Tenant != "acme" {
		t.Errorf("%+v", p.Principal)
	}
	w.bad("alice", "correct horse")
	w.hashes(0)
	w.good("bob", "correct horse")
	w.hashes(1)
}

// B-06: a name that is not in the file costs a hash like those of the file.
func TestUnknownCostsTheSame(t *testing.T) {
	t.Parallel()
	counted := &counting{}
	for name, want := range map[string][2]int64{lines(t, "alice", "x"): {2, 0}, lines(t): {0, 2}} {
		cfg := basic.Config{InsecureAnywhere: true, HtpasswdFile: strictyaml.Path(name)}
		a, err := basic.New(cfg, basic.Deps{Hasher: counted})
		if err != nil {
			t.Fatal(err)
		}
		for _, user := range []string{"alice", "mallory"} {
			if p, err := a.Authenticate(t.Context(), credential(user, "wrong")); p != nil || err == nil {
				t.Errorf("%s: %v", user, err)
			}
		}
		if known, nobody := counted.known.Swap(0), counted.nobody.Swap(0); known != want[0] || nobody != want[1] {
			t.Errorf("%d and %d hashes, want %v", known, nobody, want)
		}
	}
}

type counting struct{ known, nobody atomic.Int64 }

func (c *counting) Verify(context.Context, string, policy.Secret) (bool, error) {
	c.known.Add(1)
	return false, nil
}

func (c *counting) VerifyNobody(context.Context, policy.Secret) error {
	c.nobody.Add(1)
	return nil
}

// TIMING-02: what an unknown user costs, and a wrong password of one whom there is. The
// ratio of the medians is printed, not asserted: machines differ; that both hash once is
// asserted elsewhere.
func TestTiming(t *testing.T) {
	if testing.Short() {
		t.Skip("hashes for some seconds")
	}
	h, err := password.New(password.Config{}, password.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := h.Hash(t.Context(), policy.NewSecret("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(name, []byte("alice:"+hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := basic.Config{InsecureAnywhere: true, HtpasswdFile: strictyaml.Path(name), Tries: 1000}
	a, err := basic.New(cfg, basic.Deps{Hasher: h})
	if err != nil {
		t.Fatal(err)
	}
	times := map[string][]time.Duration{}
	for i := range 8 {
		for _, user := range []string{"alice", "mallory"} {
			start := time.Now()
			_, err := a.Authenticate(t.Context(), credential(user, fmt.Sprint("wrong", i)))
			times[user] = append(times[user], time.Since(start))
			if err == nil {
				t.Fatal("allowed")
			}
		}
	}
	median := func(user string) time.Duration {
		slices.Sort(times[user])
		return times[user][len(times[user])/2]
	}
	t.Logf("unknown user %v, wrong password %v: ratio %.3f", median("mallory"), median("alice"), float64(median("mallory"))/float64(median("alice")))
}

// B-03: without a zone nothing starts; each mistake is named with its field.
func TestConfig(t *testing.T) {
	t.Parallel()
	ok := func() basic.Config { return basic.Config{Zones: []string{"office"}} }
	for want, change := range map[string]func(*basic.Config){
		"":                        func(*basic.Config) {},
		"basic.zones: ":           func(c *basic.Config) { c.Zones = nil },
		"basic.zones[0]: ":        func(c *basic.Config) { c.Zones = []string{""} },
		"basic.insecure_anywhere": func(c *basic.Config) { c.InsecureAnywhere = true },
		"basic.tenant: ":          func(c *basic.Config) { c.Tenant = "a/b" },
		"basic.tenant_separator":  func(c *basic.Config) { c.TenantSeparator = ":" },
		"basic.cache_ttl: ":       func(c *basic.Config) { c.CacheTTL = time.Minute + 1 },
		"basic.workers: ":         func(c *basic.Config) { c.Workers = -1 },
		"basic.queue: ":           func(c *basic.Config) { c.Queue = 1e9 },
		"basic.tries: ":           func(c *basic.Config) { c.Tries = -1 },
		"basic.window: ":          func(c *basic.Config) { c.Window = time.Millisecond },
		"basic.htpasswd_file: ":   func(c *basic.Config) { c.HtpasswdFile = "/nowhere/htpasswd" },
	} {
		cfg := ok()
		change(&cfg)
		_, err := basic.New(cfg, basic.Deps{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if _, err := basic.New(ok(), basic.Deps{People: nobody{}}); err == nil {
		t.Error("people without the check of their passwords")
	}
	var shown basic.Config
	shown.SetDefaults()
	if shown.CacheTTL != time.Minute || shown.Tries != 5 || shown.Window != 15*time.Minute || shown.Workers < 1 || shown.Queue != 64 {
		t.Errorf("%+v", shown)
	}
	if len((&basic.Config{}).Warnings()) != 1 || len((&basic.Config{InsecureAnywhere: true}).Warnings()) != 2 {
		t.Error("warnings")
	}
}

// B-04: the second request with a password. It is said to take less than 50 µs.
func BenchmarkRemembered(b *testing.B) {
	w := newWorld(b)
	c := credential("alice", "correct horse")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// The same while somebody else is locked out.
func BenchmarkRememberedUnderAttack(b *testing.B) {
	w := newWorld(b)
	for range 5 {
		w.bad("nobody", "x")
	}
	c := credential("alice", "correct horse")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
