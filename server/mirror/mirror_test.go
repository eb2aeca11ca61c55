package mirror_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

const pepperText = "a pepper for the tests of the mirror, long enough"

func peppers(t testing.TB, texts ...string) *seal.Peppers {
	t.Helper()
	list := make([]seal.Pepper, len(texts))
	for i, text := range texts {
		list[i] = seal.Pepper{Version: len(texts) - i, Secret: policy.NewSecret(text)}
	}
	ps, err := seal.NewPeppers(list)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// scene is a store with a mirror that is asked by hand, and a clock that stands
// still.
type scene struct {
	testing.TB
	*mirror.Mirror
	store   store.Store
	peppers *seal.Peppers
	now     time.Time
	keys    *apikey.Authenticator
	ends    []mirror.Ending
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newScene(t testing.TB, change ...func(*mirror.Config)) *scene {
	t.Helper()
	s := &scene{TB: t, now: noon, peppers: peppers(t, pepperText)}
	s.store = memory.New(func() time.Time { return s.now })
	s.Mirror = s.replica(change...)
	if err := s.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.keys = s.authenticator(s.Mirror)
	s.put(&store.Tenant{ID: "acme"})
	return s
}

// replica is one more mirror of the store.
func (s *scene) replica(change ...func(*mirror.Config)) *mirror.Mirror {
	var cfg mirror.Config
	for _, c := range change {
		c(&cfg)
	}
	return mirror.New(cfg, s.store, mirror.Deps{
		Now: func() time.Time { return s.now }, Peppers: s.peppers,
		Ending: func(e mirror.Ending) { s.ends = append(s.ends, e) },
	})
}

func (s *scene) authenticator(m *mirror.Mirror) *apikey.Authenticator {
	s.Helper()
	a, err := apikey.New(apikey.Config{Pepper: policy.NewSecret(pepperText)},
		apikey.Deps{Now: func() time.Time { return s.now }, Indexes: []authn.Index{m.Credentials()}})
	if err != nil {
		s.Fatal(err)
	}
	return a
}

// put writes documents in one transaction and lets the mirror see it.
func (s *scene) put(docs ...store.Document) store.Change {
	s.Helper()
	return s.update(func(tx store.Tx) error {
		for _, d := range docs {
			if err := store.Put(tx, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *scene) remove(kind store.Kind, id string) {
	s.Helper()
	s.update(func(tx store.Tx) error { return tx.Delete(kind, id) })
}

func (s *scene) update(fn func(store.Tx) error) store.Change {
	s.Helper()
	c, err := s.store.Update(context.Background(), fn)
	if err != nil {
		s.Fatal(err)
	}
	s.poll()
	return c
}

func (s *scene) poll() {
	s.Helper()
	if err := s.Poll(context.Background()); err != nil {
		s.Fatal(err)
	}
}

// user and service are principals of acme.
func user(id string, change ...func(*store.Principal)) *store.Principal {
	p := &store.Principal{Tenant: "acme", ID: id, Kind: policy.KindUser, CreatedAt: noon}
	for _, c := range change {
		c(p)
	}
	return p
}

func service(id string, change ...func(*store.Principal)) *store.Principal {
	p := user(id, change...)
	p.Kind = policy.KindService
	return p
}

// issue makes a credential of a principal of acme, and its secret.
func (s *scene) issue(sort store.CredentialType, principal string, change ...func(*store.Credential)) (*store.Credential, string) {
	s.Helper()
	kind := seal.KindKey
	if sort == store.PAT {
		kind = seal.KindPAT
	}
	m, err := seal.Mint(rand.Reader, seal.Spec{Kind: kind}, s.peppers)
	if err != nil {
		s.Fatal(err)
	}
	c := &store.Credential{
		ID: m.ID, Type: sort, Tenant: "acme", Principal: principal, Digest: m.Digest.String(), CreatedAt: noon,
	}
	for _, ch := range change {
		if ch != nil {
			ch(c)
		}
	}
	s.put(c)
	return c, m.Secret.Reveal()
}

func (s *scene) ask(secret string) (*authn.Proof, error) {
	return s.keys.Authenticate(context.Background(), &authn.Credential{Uses: []policy.Method{policy.MethodAPIKey}, Secret: policy.NewSecret(secret)})
}

func (s *scene) prove(secret string) *authn.Proof {
	s.Helper()
	p, err := s.ask(secret)
	if err != nil {
		s.Fatalf("refused: %v", err)
	}
	return p
}

func (s *scene) refused(secret string, want policy.Reason) {
	s.Helper()
	if got := reasonOf(s.ask(secret)); got != want {
		s.Errorf("%v, want %v", got, want)
	}
}

// reasonOf is the reason of an answer; ReasonUnavailable where nobody knows.
func reasonOf(p *authn.Proof, err error) policy.Reason {
	var r *authn.Refusal
	switch {
	case err == nil && p != nil:
		return policy.ReasonAllowed
	case errors.As(err, &r):
		return r.Reason
	}
	return policy.ReasonUnavailable
}

// P-01, T-05: a proof says who calls, by what, and until when.
func TestProof(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	limits := &policy.Constraints{Methods: []string{"GET"}}
	s.put(user("alice", func(p *store.Principal) {
		p.Roles, p.Metadata = []string{"reader"}, map[string]any{"team": "billing", "level": 3}
	}))
	c, secret := s.issue(store.PAT, "alice", func(c *store.Credential) {
		c.Name, c.ExpiresAt, c.Constraints = "laptop", noon.Add(time.Hour), limits
		c.Metadata = map[string]any{"team": "admins", "host": "xps"}
	})
	p := s.prove(secret)
	want := &policy.Principal{
		ID: "alice", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"reader"},
		Claims: map[string]any{"name": "laptop", "type": "pat"}, Method: policy.MethodPAT, Assurance: 2,
		CredentialID: c.ID, Issuer: "postern", IssuedAt: noon, ExpiresAt: noon.Add(time.Hour),
	}
	got := *p.Principal
	// Z-06: what the user notes on a token does not outweigh what is noted on the user.
	if fmt.Sprint(got.Metadata) != "map[host:xps level:3 team:billing]" {
		t.Errorf("metadata %v", got.Metadata)
	}
	got.Metadata = nil
	if d := cmp.Diff(want, &got); d != "" {
		t.Error(d)
	}
	subject := authn.Subject{TokenID: c.ID, Issuer: "postern", ID: "alice", Tenant: "acme", IssuedAt: noon}
	if p.Subject != subject || !p.NotAfter.Equal(noon.Add(time.Hour)) || p.Constraints == nil || p.State != policy.StateMirror {
		t.Errorf("%+v", p)
	}
	if s.prove(secret) != p {
		t.Error("the proof was built twice")
	}
}

// P-07: what a credential may do is narrowed to what its principal may at the
// moment.
func TestRights(t *testing.T) {
	t.Parallel()
	type list = []string
	full := func(p *store.Principal) {
		p.Roles, p.Scopes, p.Permissions = list{"r1", "r2"}, list{"s1", "s2"}, list{"p1", "p2"}
	}
	for _, c := range []struct {
		name string
		sort store.CredentialType
		of   func(*store.Principal)
		own  func(*store.Credential)
		want policy.Principal
	}{
		{"key that lists nothing", store.APIKey, full, nil, policy.Principal{Roles: list{"r1", "r2"}, Scopes: list{"s1", "s2"}, Permissions: list{"p1", "p2"}}},
		{"key that lists a scope", store.APIKey, full, func(c *store.Credential) { c.Scopes = list{"s9"} }, policy.Principal{Scopes: list{"s9"}}},
		{"token", store.Token, full, func(c *store.Credential) { c.Roles = list{"root"} }, policy.Principal{Roles: list{"r1", "r2"}, Scopes: list{"s1", "s2"}, Permissions: list{"p1", "p2"}}},
		{"pat that lists nothing", store.PAT, full, nil, policy.Principal{Roles: list{"r1", "r2"}, Scopes: list{"s1", "s2"}, Permissions: list{"p1", "p2"}}},
		{"pat with scopes", store.PAT, full, func(c *store.Credential) { c.Scopes = list{"s2", "s3"} },
			policy.Principal{Roles: list{"r1", "r2"}, Scopes: list{"s2"}, Permissions: list{"p1", "p2"}}},
		{"pat with scopes of a user without", store.PAT, func(*store.Principal) {}, func(c *store.Credential) { c.Scopes = list{"s2", "s3"} }, policy.Principal{Narrowed: &policy.Narrowed{}}},
		{"pat whose scopes the user has lost", store.PAT, full, func(c *store.Credential) { c.Scopes = list{"s3"} }, policy.Principal{Narrowed: &policy.Narrowed{}}},
		{"pat with roles", store.PAT, full, func(c *store.Credential) { c.Roles = list{"r2", "root"} },
			policy.Principal{Roles: list{"r2"}, Narrowed: &policy.Narrowed{UserRoles: list{"r1", "r2"}, UserPermissions: list{"p1", "p2"}}}},
		{"pat with permissions", store.PAT, full, func(c *store.Credential) { c.Permissions = list{"p2", "p3"} },
			policy.Principal{Permissions: list{"p2"}, Narrowed: &policy.Narrowed{
				Permissions: list{"p2", "p3"}, UserRoles: list{"r1", "r2"}, UserPermissions: list{"p1", "p2"}}}},
		{"pat with permissions of a user without", store.PAT, func(*store.Principal) {}, func(c *store.Credential) { c.Permissions = list{"p2"} },
			policy.Principal{Narrowed: &policy.Narrowed{Permissions: list{"p2"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.put(user("alice", c.of))
			_, secret := s.issue(c.sort, "alice", c.own)
			p := s.prove(secret).Principal
			got := policy.Principal{Roles: p.Roles, Scopes: p.Scopes, Permissions: p.Permissions, Narrowed: p.Narrowed}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// P-07, T-05, T-07, E-02: a user loses a right, and gets another metadata; every
// token follows without being issued again.
func TestPrincipalChanges(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(user("bob", func(p *store.Principal) {
		p.Roles, p.Metadata = []string{"admin", "user"}, map[string]any{"plan": "free"}
	}))
	_, pat := s.issue(store.PAT, "bob")
	_, narrow := s.issue(store.PAT, "bob", func(c *store.Credential) { c.Roles = []string{"admin"} })
	token := s.importToken("sk_live_abc123def456ghi789jkl", "bob")
	before, epoch := s.prove(pat), s.Epoch()
	s.prove(narrow)
	s.put(user("bob", func(p *store.Principal) { p.Roles, p.Metadata = []string{"user"}, map[string]any{"plan": "pro"} }))
	if s.Epoch() == epoch {
		t.Error("the epoch is the same")
	}
	for _, secret := range []string{pat, token} {
		p := s.prove(secret)
		if p == before || fmt.Sprint(p.Principal.Roles) != "[user]" || p.Principal.Metadata["plan"] != "pro" {
			t.Errorf("%v %v", p.Principal.Roles, p.Principal.Metadata)
		}
	}
	if p := s.prove(narrow); len(p.Principal.Roles) != 0 {
		t.Errorf("the narrowed token still has %v", p.Principal.Roles)
	}
	s.put(user("bob", func(p *store.Principal) { p.Disabled = &store.Ending{At: noon} }))
	for _, secret := range []string{pat, narrow, token} {
		s.refused(secret, policy.ReasonDisabled)
	}
	s.remove(store.KindPrincipal, "acme/bob")
	for _, secret := range []string{pat, narrow, token} {
		s.refused(secret, policy.ReasonDisabled)
	}
}

func (s *scene) importToken(secret, principal string, change ...func(*store.Credential)) string {
	s.Helper()
	s.issue(store.Token, principal, append(change, func(c *store.Credential) {
		c.Digest = seal.ImportedDigest(policy.NewSecret(secret)).String()
	})...)
	return secret
}

// K-06, K-07, K-12 (overlap), P-06: what ends a credential, and when.
func TestLife(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(service("svc"))
	at := noon.Add(time.Minute)
	for _, c := range []struct {
		name           string
		change         func(*store.Credential)
		before, during policy.Reason // a nanosecond before that minute is over, and from then on
	}{
		{"nothing", func(*store.Credential) {}, policy.ReasonAllowed, policy.ReasonAllowed},
		{"expires", func(c *store.Credential) { c.ExpiresAt = at }, policy.ReasonAllowed, policy.ReasonExpired},
		{"begins", func(c *store.Credential) { c.NotBefore = at }, policy.ReasonNotYetValid, policy.ReasonAllowed},
		{"rotated with grace", func(c *store.Credential) { c.Rotated = &store.Ending{At: at} }, policy.ReasonAllowed, policy.ReasonRotated},
		{"rotated at once", func(c *store.Credential) { c.Rotated = &store.Ending{} }, policy.ReasonRotated, policy.ReasonRotated},
		{"expires before it is rotated", func(c *store.Credential) { c.Rotated, c.ExpiresAt = &store.Ending{At: at.Add(1)}, at }, policy.ReasonAllowed, policy.ReasonExpired},
		{"disabled", func(c *store.Credential) { c.Disabled = &store.Ending{At: noon} }, policy.ReasonDisabled, policy.ReasonDisabled},
		{"revoked", func(c *store.Credential) { c.Revoked = &store.Ending{At: noon} }, policy.ReasonRevoked, policy.ReasonRevoked},
		{"revoked by a clock that is ahead", func(c *store.Credential) { c.Revoked = &store.Ending{At: noon.Add(time.Hour)} }, policy.ReasonRevoked, policy.ReasonRevoked},
		{"disabled by a clock that is ahead", func(c *store.Credential) { c.Disabled = &store.Ending{At: noon.Add(time.Hour)} }, policy.ReasonDisabled, policy.ReasonDisabled},
		{"revoked and expired", func(c *store.Credential) { c.Revoked, c.ExpiresAt = &store.Ending{At: noon}, at }, policy.ReasonRevoked, policy.ReasonRevoked},
		{"ends before all time", func(c *store.Credential) { c.ExpiresAt = time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC) }, policy.ReasonExpired, policy.ReasonExpired},
		{"ends after all time", func(c *store.Credential) { c.ExpiresAt = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) }, policy.ReasonAllowed, policy.ReasonAllowed},
	} {
		_, secret := s.issue(store.APIKey, "svc", c.change)
		s.now = at.Add(-1)
		if got := reasonOf(s.ask(secret)); got != c.before {
			t.Errorf("%s: before %v, want %v", c.name, got, c.before)
		}
		s.now = at
		if got := reasonOf(s.ask(secret)); got != c.during {
			t.Errorf("%s: then %v, want %v", c.name, got, c.during)
		}
		s.now = noon
	}
}

// G-12, K-16, P-06: whatever a credential hangs from takes it along, and gives it
// back if that can be taken back; its sister stays.
func TestFalls(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	off := &store.Ending{At: noon}
	app := func(d *store.Ending) *store.Principal {
		return service("app", func(p *store.Principal) { p.Disabled, p.Owner = d, "department" })
	}
	s.put(service("department"), app(nil), service("worker", func(p *store.Principal) { p.Owner = "app" }), service("other"))
	parent, parentSecret := s.issue(store.APIKey, "app")
	child, secret := s.issue(store.APIKey, "worker", func(c *store.Credential) { c.Parent = parent.ID })
	_, grandchild := s.issue(store.APIKey, "worker", func(c *store.Credential) { c.Parent = child.ID })
	_, sister := s.issue(store.APIKey, "other")
	again := func(doc *store.Credential, change func(*store.Credential)) *store.Credential {
		c := *doc
		change(&c)
		return &c
	}
	for _, c := range []struct {
		name    string
		down    store.Document
		want    policy.Reason
		up      store.Document
		parents policy.Reason
	}{
		{"the tenant", &store.Tenant{ID: "acme", Disabled: off}, policy.ReasonDisabled, &store.Tenant{ID: "acme"}, policy.ReasonDisabled},
		{"the principal", service("worker", func(p *store.Principal) { p.Owner, p.Disabled = "app", off }), policy.ReasonDisabled,
			service("worker", func(p *store.Principal) { p.Owner = "app" }), policy.ReasonAllowed},
		{"the app", app(off), policy.ReasonDisabled, app(nil), policy.ReasonDisabled},
		{"the owner of the app", service("department", func(p *store.Principal) { p.Disabled = off }), policy.ReasonDisabled, service("department"), policy.ReasonDisabled},
		{"the parent disabled", again(parent, func(c *store.Credential) { c.Disabled = off }), policy.ReasonDisabled, parent, policy.ReasonDisabled},
		{"the parent revoked", again(parent, func(c *store.Credential) { c.Revoked = off }), policy.ReasonRevoked, parent, policy.ReasonRevoked},
		{"the parent expired", again(parent, func(c *store.Credential) { c.ExpiresAt = noon }), policy.ReasonExpired, parent, policy.ReasonExpired},
		{"the parent not yet", again(parent, func(c *store.Credential) { c.NotBefore = noon.Add(1) }), policy.ReasonAllowed, parent, policy.ReasonNotYetValid},
		{"the parent rotated into nothing", again(parent, func(c *store.Credential) { c.Rotated = off }), policy.ReasonRevoked, parent, policy.ReasonRotated},
	} {
		s.put(c.down)
		for _, key := range []string{secret, grandchild} {
			if got := reasonOf(s.ask(key)); got != c.want {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
		if got := reasonOf(s.ask(parentSecret)); got != c.parents {
			t.Errorf("%s: the parent %v, want %v", c.name, got, c.parents)
		}
		if c.down.Columns().Kind != store.KindTenant {
			s.prove(sister)
		}
		s.put(c.up)
		for _, key := range []string{secret, grandchild, parentSecret, sister} {
			s.prove(key)
		}
	}
	// A rotated parent is followed to the one that took its place.
	next, _ := s.issue(store.APIKey, "app")
	s.put(again(parent, func(c *store.Credential) { c.Rotated, c.Successor = off, next.ID }))
	s.prove(secret)
	s.put(again(next, func(c *store.Credential) { c.Revoked = off }))
	s.refused(secret, policy.ReasonRevoked)
	s.put(next)
	s.prove(secret)
	s.remove(store.KindCredential, parent.ID)
	s.refused(secret, policy.ReasonRevoked)
	s.refused(grandchild, policy.ReasonRevoked)
	s.refused(parentSecret, policy.ReasonCredentialUnknown)
}

// Circles deny, and end.
func TestCircles(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	own := func(id, owner string) *store.Principal {
		return service(id, func(p *store.Principal) { p.Owner = owner })
	}
	s.put(own("a", "b"), own("b", "a"), own("self", "self"), service("top"), own("orphan", "nobody"))
	_, inCircle := s.issue(store.APIKey, "a")
	_, ofSelf := s.issue(store.APIKey, "self")
	_, orphan := s.issue(store.APIKey, "orphan")
	_, ofNobody := s.issue(store.APIKey, "nobody")
	for _, secret := range []string{inCircle, ofSelf, orphan, ofNobody} {
		s.refused(secret, policy.ReasonDisabled)
	}
	one, circular := s.issue(store.APIKey, "top")
	two, _ := s.issue(store.APIKey, "top", func(c *store.Credential) { c.Parent = one.ID })
	one.Parent = two.ID
	s.put(one)
	s.refused(circular, policy.ReasonRevoked)
	one.Parent, one.Rotated, one.Successor = "", &store.Ending{}, one.ID
	s.put(one)
	_, child := s.issue(store.APIKey, "top", func(c *store.Credential) { c.Parent = one.ID })
	s.refused(child, policy.ReasonRevoked)
	s.put(own("b", ""))
	s.prove(inCircle)
	// Sixteen owners are a line, seventeen are not.
	last := "top"
	for i := range 17 {
		id := fmt.Sprint("line", i)
		s.put(own(id, last))
		_, secret := s.issue(store.APIKey, id)
		if got, want := reasonOf(s.ask(secret)) == policy.ReasonAllowed, i < 16; got != want {
			t.Errorf("%d owners: %v", i+1, got)
		}
		last = id
	}
}

// A record that cannot be read denies what it names, stops nothing, and is told.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(user("alice"), service("svc"))
	good, goodSecret := s.issue(store.APIKey, "svc")
	bad, badSecret := s.issue(store.APIKey, "svc")
	_, aliceSecret := s.issue(store.PAT, "alice")
	raw := func(r store.Record, body string) {
		s.update(func(tx store.Tx) error { r.Body = []byte(body); return tx.Put(r) })
	}
	for _, body := range []string{
		`{`, `[]`, `{"id":"` + good.ID + `"}`, `{"id":"` + bad.ID + `"}`,
		`{"id":"` + bad.ID + `","type":"api_key","principal":"svc","tenant":"acme","digest":"` + badSecret + `"}`,
		`{"id":"` + bad.ID + `","type":"root","principal":"svc","tenant":"acme","digest":"` + bad.Digest + `"}`,
		`{"id":"` + bad.ID + `","type":"api_key","principal":"","digest":"` + bad.Digest + `"}`,
		`{"id":"` + bad.ID + `","type":"api_key","principal":"svc","tenant":"acme","digest":"` + bad.Digest + `","constraints":{"networks":[]}}`,
		`{"id":"` + bad.ID + `","type":"api_key","principal":"svc","tenant":"acme","digest":"` + bad.Digest + `","metadata":{}} {}`,
	} {
		raw(bad.Columns(), body)
		s.refused(badSecret, policy.ReasonUnavailable)
		s.prove(goodSecret)
		if st := s.Status(); st.Damaged != 1 || len(st.DamagedRecords) != 1 || st.State != mirror.Fresh {
			t.Errorf("%s: %+v", body, st)
		}
		for _, text := range s.Status().DamagedRecords {
			if containsSecret(text, badSecret) {
				t.Errorf("the status shows the secret: %s", text)
			}
		}
		s.put(bad)
		s.prove(badSecret)
	}
	// A limit that fits nothing, beside one that does, was taken once and counts on.
	raw(bad.Columns(), `{"id":"`+bad.ID+`","type":"api_key","principal":"svc","tenant":"acme","digest":"`+bad.Digest+`","constraints":{"hosts":["api.example.com","api.example.com."],"peers":["spiffe://acme/a","spiffe://acme/**"],"methods":["GET","GE T"]}}`)
	s.prove(badSecret)
	s.put(bad)
	raw(user("alice").Columns(), `{"tenant":"acme","id":"alice","kind":"god"}`)
	s.refused(aliceSecret, policy.ReasonUnavailable)
	raw((&store.Tenant{ID: "acme"}).Columns(), `null`)
	s.refused(goodSecret, policy.ReasonUnavailable)
	// A line of the denylist that cannot be read leaves the one that it replaces.
	line := &store.Denial{ID: "line", JTI: good.ID}
	s.put(line)
	raw(line.Columns(), `{"id":"line"}`)
	if _, revoked := s.Revoked(&authn.Subject{TokenID: good.ID}); !revoked {
		t.Error("a damaged line takes back a revocation")
	}
	if st := s.Status(); st.Damaged != 3 {
		t.Errorf("%d damaged: %v", st.Damaged, st.DamagedRecords)
	}
	s.put(user("alice"), &store.Tenant{ID: "acme"}, line)
	s.prove(aliceSecret)
	if st := s.Status(); st.Damaged != 0 {
		t.Errorf("%+v", st.DamagedRecords)
	}
}

func containsSecret(text, secret string) bool {
	secret = secret[len(secret)-40:]
	for i := 0; i+8 <= len(secret); i++ {
		if strings.Contains(text, secret[i:i+8]) {
			return true
		}
	}
	return false
}

// J-09, P-13, M-04: lines of the denylist come and go, for whom they name.
func TestDenials(t *testing.T) {
	s := newScene(t)
	for i, c := range []struct {
		line store.Denial
		hit  authn.Subject
		miss authn.Subject
	}{
		{store.Denial{JTI: "j"}, authn.Subject{TokenID: "j"}, authn.Subject{TokenID: "k"}},
		{store.Denial{JTI: "j", Tenant: "acme"}, authn.Subject{TokenID: "j", Tenant: "acme"}, authn.Subject{TokenID: "j", Tenant: "hooli"}},
		{store.Denial{SID: "s", Issuer: "i"}, authn.Subject{SessionID: "s", Issuer: "i"}, authn.Subject{SessionID: "s", Issuer: "o"}},
		{store.Denial{KID: "k", Issuer: "i"}, authn.Subject{KeyID: "k", Issuer: "i"}, authn.Subject{TokenID: "k", Issuer: "i"}},
		{store.Denial{Fingerprint: fingerprint}, authn.Subject{Fingerprint: fingerprint}, authn.Subject{TokenID: fingerprint}},
		{store.Denial{Subject: "a", Issuer: "i", IssuedBefore: noon}, authn.Subject{ID: "a", Issuer: "i", IssuedAt: noon.Add(-1)}, authn.Subject{ID: "a", Issuer: "i", IssuedAt: noon}},
		{store.Denial{Client: "c", Issuer: "i", IssuedBefore: noon}, authn.Subject{Client: "c", Issuer: "i"}, authn.Subject{Client: "c", Issuer: "i", IssuedAt: noon}},
		{store.Denial{Agent: "b", IssuedBefore: noon}, authn.Subject{Agent: "b"}, authn.Subject{ID: "b"}},
		{store.Denial{OfTenant: "acme", IssuedBefore: noon}, authn.Subject{Tenant: "acme"}, authn.Subject{Tenant: "hooli"}},
	} {
		c.line.ID = fmt.Sprint("line", i)
		s.put(&c.line)
		if r, revoked := s.Revoked(&c.hit); !revoked || r != policy.ReasonRevoked {
			t.Errorf("%+v does not revoke", c.line)
		}
		if _, revoked := s.Revoked(&c.miss); revoked {
			t.Errorf("%+v revokes %+v", c.line, c.miss)
		}
		if n := testing.AllocsPerRun(10, func() { s.Revoked(&c.hit) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		s.remove(store.KindDenial, c.line.ID)
		if _, revoked := s.Revoked(&c.hit); revoked || s.Status().Denials != 0 {
			t.Errorf("%+v stays", c.line)
		}
	}
}

const fingerprint = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// The quarantine of a replica holds for keys of the store as for those of the file.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(service("svc"))
	c, secret := s.issue(store.APIKey, "svc")
	_, other := s.issue(store.APIKey, "svc")
	if s.keys.Quarantine("nobody") || !s.keys.Quarantine(c.ID) {
		t.Error("quarantine")
	}
	s.refused(secret, policy.ReasonDisabled)
	s.prove(other)
	if err := s.keys.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.put(c)
	s.refused(secret, policy.ReasonDisabled)
	if !s.keys.Release(c.ID) || s.keys.Release(c.ID) {
		t.Error("release")
	}
	s.prove(secret)
}

// K-05: a key that is in no index, one that is in the mirror with a wrong secret, an
// ended one with a wrong secret: one digest, one answer. Only this test counts
// digests, so it runs alone.
func TestOneDigest(t *testing.T) {
	s := newScene(t)
	s.put(service("svc"))
	_, good := s.issue(store.APIKey, "svc")
	revoked, ended := s.issue(store.APIKey, "svc", func(c *store.Credential) { c.Revoked = &store.Ending{} })
	lost, _ := s.issue(store.APIKey, "svc", func(c *store.Credential) {
		c.Digest = seal.DigestOf([32]byte{1}, 77).String() // a pepper that is not in force
	})
	token := s.importToken("sk_live_abc123def456ghi789jkl", "svc")
	digit := "0" // another one than the good secret ends in
	if good[len(good)-seal.ChecksumLen-1] == '0' {
		digit = "1"
	}
	forged := func(id string) string {
		body := "pst_key_" + id + "_" + good[len(good)-49:len(good)-7] + digit
		return string(seal.AppendChecksum([]byte(body), body))
	}
	hashes := 0
	defer seal.Observe(func() { hashes++ })()
	for _, c := range []struct {
		name, secret string
		want         policy.Reason
	}{
		{"good", good, policy.ReasonAllowed},
		{"wrong secret", forged(good[8:20]), policy.ReasonCredentialUnknown},
		{"wrong secret of a revoked one", forged(revoked.ID), policy.ReasonCredentialUnknown},
		{"revoked", ended, policy.ReasonRevoked},
		{"unknown", forged("0123456789AB"), policy.ReasonCredentialUnknown},
		{"unknown pepper", forged(lost.ID), policy.ReasonCredentialUnknown},
		{"imported", token, policy.ReasonAllowed},
		{"foreign and unknown", token + "0", policy.ReasonCredentialUnknown},
	} {
		hashes = 0
		if got := reasonOf(s.ask(c.secret)); got != c.want || hashes != 1 {
			t.Errorf("%s: %v with %d digests, want %v with 1", c.name, got, hashes, c.want)
		}
	}
}

// K-15: no allocation on the way, whether a credential is good or not known.
func TestNoAllocations(t *testing.T) {
	s := newScene(t)
	s.put(service("top"), service("svc", func(p *store.Principal) { p.Owner = "top" }))
	_, good := s.issue(store.APIKey, "svc")
	token := s.importToken("sk_live_abc123def456ghi789jkl", "svc")
	for name, secret := range map[string]string{
		"good": good, "imported": token, "foreign and unknown": token + "0",
		"unknown": "pst_key_0123456789AB_0123456789012345678901234567890123456789012ABCDEF",
	} {
		c := &authn.Credential{Uses: []policy.Method{policy.MethodAPIKey}, Secret: policy.NewSecret(secret)}
		if n := testing.AllocsPerRun(100, func() {
			p, _ := s.keys.Authenticate(context.Background(), c)
			if p != nil {
				s.Used(p.Principal.CredentialID, "route", true, s.now)
				s.Revoked(&p.Subject)
			}
			s.State(s.now)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// Lines of the denylist go from memory a day after their end, and those without one
// stay.
func TestOldDenialsAreForgotten(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	const many = 1200 // more than are let go of at once
	var ending []store.Document
	for i := range many {
		id := fmt.Sprint("j", i)
		ending = append(ending, &store.Denial{ID: id, JTI: id, ExpiresAt: noon.Add(time.Hour)})
	}
	s.put(ending...)
	s.put(&store.Denial{ID: "for ever", JTI: "for ever"}, &store.Denial{ID: "longer", JTI: "longer", ExpiresAt: noon.Add(2 * day)})
	for _, c := range []struct {
		at   time.Time
		left int
	}{{noon.Add(25 * time.Hour), many + 2}, {noon.Add(25*time.Hour + 1), 2}, {noon.Add(4 * day), 1}} {
		mirror.Forget(s.Mirror, c.at)
		if got := s.Status().Denials; got != c.left {
			t.Errorf("at %v: %d lines are left, want %d", c.at, got, c.left)
		}
		if knows(s.Mirror, "j7") != (c.left > 2) || knows(s.Mirror, "longer") != (c.left > 1) || !knows(s.Mirror, "for ever") {
			t.Errorf("at %v: the wrong lines are left", c.at)
		}
	}
	s.remove(store.KindDenial, "for ever")
	s.remove(store.KindDenial, "j7") // which is long gone here
	if got := s.Status().Denials; got != 0 {
		t.Errorf("%d lines stay", got)
	}
}
