package mirror_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// model answers from scratch: it reads the store each time, as slowly and as
// plainly as the rules are written.
type model struct{ store.Reader }

// credential says why a credential does not count, or what its principal may.
func (m model) credential(id string, now time.Time) (policy.Reason, []string) {
	c, err := store.Get[store.Credential](m, id)
	if err != nil {
		return policy.ReasonCredentialUnknown, nil
	}
	if r := m.life(c, now); r != policy.ReasonAllowed {
		return r, nil
	}
	if c.Parent != "" {
		if r := m.parent(c.Parent, now, 0); r != policy.ReasonAllowed {
			return r, nil
		}
	}
	if t, err := store.Get[store.Tenant](m, c.Tenant); err != nil || t.Disabled != nil {
		return policy.ReasonDisabled, nil
	}
	p, ok := m.principal(c.Tenant, c.Principal, 0)
	if !ok {
		return policy.ReasonDisabled, nil
	}
	if c.Type == store.PAT && len(c.Roles) > 0 {
		return policy.ReasonAllowed, slices.DeleteFunc(slices.Clone(p.Roles), func(r string) bool { return !slices.Contains(c.Roles, r) })
	}
	if c.Type == store.APIKey && len(c.Roles) > 0 {
		return policy.ReasonAllowed, c.Roles
	}
	return policy.ReasonAllowed, p.Roles
}

func (m model) life(c *store.Credential, now time.Time) policy.Reason {
	switch {
	case c.Revoked != nil:
		return policy.ReasonRevoked
	case c.Rotated != nil && !now.Before(c.Rotated.At) && (c.ExpiresAt.IsZero() || !c.ExpiresAt.Before(c.Rotated.At)):
		return policy.ReasonRotated
	case !c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt):
		return policy.ReasonExpired
	case c.Disabled != nil:
		return policy.ReasonDisabled
	case now.Before(c.NotBefore):
		return policy.ReasonNotYetValid
	}
	return policy.ReasonAllowed
}

func (m model) parent(id string, now time.Time, depth int) policy.Reason {
	c, err := store.Get[store.Credential](m, id)
	if err != nil || depth == 16 {
		return policy.ReasonRevoked
	}
	switch r := m.life(c, now); {
	case r == policy.ReasonRotated && c.Successor == "":
		return policy.ReasonRevoked
	case r == policy.ReasonRotated:
		return m.parent(c.Successor, now, depth+1)
	case r != policy.ReasonAllowed && r != policy.ReasonNotYetValid:
		return r
	case c.Parent != "":
		return m.parent(c.Parent, now, depth+1)
	}
	return policy.ReasonAllowed
}

func (m model) principal(tenant, id string, depth int) (*store.Principal, bool) {
	p, err := store.Get[store.Principal](m, store.PrincipalKey(tenant, id))
	if err != nil || p.Disabled != nil || depth == 17 {
		return nil, false
	}
	if p.Owner != "" {
		if _, ok := m.principal(tenant, p.Owner, depth+1); !ok {
			return nil, false
		}
	}
	return p, true
}

// K-16, P-07, G-12, E-02: after whatever changes, whole or in pieces, a mirror that
// followed them, one that starts now and the model give the same answers.
func TestMirrorIsTheModel(t *testing.T) {
	t.Parallel()
	ps := peppers(t, pepperText)
	var secrets []seal.Minted
	for range 6 {
		secrets = append(secrets, mintKey(t, ps))
	}
	rapid.Check(t, func(t *rapid.T) {
		now := noon
		clock := func() time.Time { return now }
		s := memory.New(clock)
		follower := mirror.New(mirror.Config{}, s, mirror.Deps{Now: clock})
		if err := follower.Load(context.Background()); err != nil {
			t.Fatal(err)
		}
		d := dealer{T: t, secrets: secrets, deleted: map[string]bool{}}
		for range rapid.IntRange(1, 25).Draw(t, "transactions") {
			if _, err := s.Update(context.Background(), func(tx store.Tx) error {
				for range rapid.IntRange(1, 4).Draw(t, "writes") {
					if err := d.write(tx); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 2).Draw(t, "poll") > 0 {
				if err := follower.Poll(context.Background()); err != nil {
					t.Fatal(err)
				}
				ask(t, ps, s, follower, secrets, now)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "time")) * time.Minute)
		}
		if err := follower.Poll(context.Background()); err != nil {
			t.Fatal(err)
		}
		fresh := mirror.New(mirror.Config{}, s, mirror.Deps{Now: clock})
		if err := fresh.Load(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*mirror.Mirror{follower, fresh} {
			ask(t, ps, s, m, secrets, now)
		}
		if a, b := follower.Status(), fresh.Status(); a.Credentials != b.Credentials || a.Principals != b.Principals || a.Sessions != b.Sessions {
			t.Fatalf("the follower keeps %+v, a fresh one %+v", a, b)
		}
	})
}

// dealer makes random changes to a few of everything.
type dealer struct {
	*rapid.T
	secrets []seal.Minted
	deleted map[string]bool
}

func (d *dealer) ending(name string) *store.Ending {
	if rapid.IntRange(0, 3).Draw(d.T, name) > 0 {
		return nil
	}
	return &store.Ending{At: d.time(name)}
}

func (d *dealer) time(name string) time.Time {
	return noon.Add(time.Duration(rapid.IntRange(0, 30).Draw(d.T, name+" at")) * time.Minute)
}

func (d *dealer) roles() []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2, rapid.ID[string]).Draw(d.T, "roles")
}

func (d *dealer) one(name string, of ...string) string { return rapid.SampledFrom(of).Draw(d.T, name) }

func (d *dealer) write(tx store.Tx) error {
	if rapid.IntRange(0, 15).Draw(d.T, "delete") == 0 {
		c := d.secrets[rapid.IntRange(0, len(d.secrets)-1).Draw(d.T, "which")]
		if _, err := tx.Get(store.KindCredential, c.ID); err == nil {
			d.deleted[c.ID] = true
			return tx.Delete(store.KindCredential, c.ID)
		}
	}
	switch rapid.IntRange(0, 5).Draw(d.T, "what") {
	case 0:
		return store.Put(tx, &store.Tenant{ID: d.one("tenant", "acme", "hooli"), Disabled: d.ending("tenant off")})
	case 1, 2:
		p := &store.Principal{
			Tenant: d.one("tenant", "acme", "hooli"), ID: d.one("principal", "p", "q", "r"), Kind: policy.KindUser,
			Owner: d.one("owner", "", "", "p", "q", "r"), Roles: d.roles(), Disabled: d.ending("principal off"),
		}
		return store.Put(tx, p)
	}
	i := rapid.IntRange(0, len(d.secrets)-1).Draw(d.T, "which")
	m := d.secrets[i]
	if d.deleted[m.ID] {
		return nil
	}
	other := func(name string) string {
		return d.one(name, "", "", "", d.secrets[0].ID, d.secrets[1].ID, d.secrets[2].ID)
	}
	c := &store.Credential{
		ID: m.ID, Digest: m.Digest.String(), Type: store.CredentialType(d.one("type", "api_key", "pat", "token")),
		Tenant: []string{"acme", "hooli"}[i%2], Principal: []string{"p", "q", "r"}[i%3], Roles: d.roles(), CreatedAt: noon,
		Revoked: d.ending("revoked"), Disabled: d.ending("disabled"), Rotated: d.ending("rotated"),
		Parent: other("parent"), Successor: other("successor"),
	}
	if c.Rotated == nil {
		c.Successor = ""
	}
	if rapid.Bool().Draw(d.T, "expires") {
		c.ExpiresAt = d.time("expires")
	}
	if rapid.Bool().Draw(d.T, "begins") {
		c.NotBefore = d.time("begins")
	}
	return store.Put(tx, c)
}

func ask(t *rapid.T, ps *seal.Peppers, s store.Store, m *mirror.Mirror, secrets []seal.Minted, now time.Time) {
	for _, c := range secrets {
		var want policy.Reason
		var roles []string
		if err := s.View(context.Background(), func(r store.Reader) error {
			want, roles = model{r}.credential(c.ID, now)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		got, have := policy.ReasonCredentialUnknown, []string(nil)
		if sealed := m.Credentials().ByID(c.ID); sealed != nil {
			sum, pepper := sealed.Seal()
			if computed, known := ps.Sum(pepper, c.Secret.Reveal()); !known || !seal.Equal(&computed, sum) {
				t.Fatalf("%s has another digest", c.ID)
			}
			p, err := sealed.Open(now)
			if got = reasonOf(p, err); p != nil {
				have = p.Principal.Roles
			}
		}
		if got != want || fmt.Sprint(have) != fmt.Sprint(roles) {
			t.Fatalf("%s at %v: %v with %v, want %v with %v", c.ID, now.Sub(noon), got, have, want, roles)
		}
	}
}

// What one transaction did to a credential and to all that it hangs from, an answer
// has seen all of or nothing of, while changes come without end.
func TestWholeChanges(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(service("top"), service("svc", func(p *store.Principal) { p.Owner = "top" }))
	parent, _ := s.issue(store.APIKey, "top")
	c, secret := s.issue(store.APIKey, "svc", func(c *store.Credential) { c.Parent = parent.ID })
	off := &store.Ending{At: noon}
	// In each state exactly one thing is off and the generation is the same
	// everywhere; good is never allowed but in generations that are divisible by 5.
	state := func(gen int) []store.Document {
		pick := func(i int) *store.Ending {
			if gen%5 == i {
				return off
			}
			return nil
		}
		g := fmt.Sprint(gen)
		own, above := *c, *parent
		own.Disabled, own.Name = pick(1), g
		above.Disabled = pick(2)
		return []store.Document{
			&own, &above,
			service("svc", func(p *store.Principal) { p.Owner, p.Roles, p.Disabled = "top", []string{g}, pick(3) }),
			service("top", func(p *store.Principal) { p.Disabled = pick(4) }),
		}
	}
	s.put(state(0)...)
	done := make(chan struct{})
	var readers sync.WaitGroup
	allowed := make([]int, 4)
	for i := range allowed {
		readers.Go(func() {
			cred := &authn.Credential{Secret: policy.NewSecret(secret)}
			for {
				select {
				case <-done:
					return
				default:
				}
				p, err := s.keys.Authenticate(context.Background(), cred)
				switch {
				case err == nil:
					allowed[i]++
					gen := 0
					if _, e := fmt.Sscan(p.Principal.Roles[0], &gen); e != nil || gen%5 != 0 || p.Principal.Claims["name"] != p.Principal.Roles[0] {
						t.Errorf("allowed by %v and %v", p.Principal.Claims, p.Principal.Roles)
						return
					}
				case reasonOf(p, err) != policy.ReasonDisabled:
					t.Error(err)
					return
				}
			}
		})
	}
	for gen := 1; gen <= 1000; gen++ {
		s.put(state(gen)...)
	}
	close(done)
	readers.Wait()
	if allowed[0]+allowed[1]+allowed[2]+allowed[3] == 0 {
		t.Error("nothing was ever allowed: this test could not fail")
	}
}

// Places of principals that nobody needs any more are given up.
func TestPlacesAreGivenUp(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for i := range 50 {
		owner, id := fmt.Sprint("o", i), fmt.Sprint("p", i)
		s.put(service(owner), service(id, func(p *store.Principal) { p.Owner = owner }))
		c, _ := s.issue(store.APIKey, id)
		s.put(service(id))
		s.remove(store.KindCredential, c.ID)
		s.remove(store.KindPrincipal, "acme/"+id)
		s.remove(store.KindPrincipal, "acme/"+owner)
	}
	if n := mirror.Slots(s.Mirror); n != 0 {
		t.Errorf("%d places are kept", n)
	}
}

func mintKey(t testing.TB, ps *seal.Peppers) seal.Minted {
	t.Helper()
	m, err := seal.Mint(rand.Reader, seal.Spec{}, ps)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
