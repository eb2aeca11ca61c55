package mirror_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/store"
)

func alice() *store.Principal {
	return &store.Principal{
		Tenant: "acme", ID: "alice", Kind: policy.KindUser, Name: "Alice", Roles: []string{"reader"}, Scopes: []string{"orders"},
		Permissions: []string{"orders.read"}, Metadata: map[string]any{"team": "a"}, Password: "$argon2id$v=19$…",
	}
}

// A user is found by tenant and name, and by nothing that only looks like it.
func TestPeople(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(alice(), &store.Principal{Tenant: "acme", ID: "shop", Kind: policy.KindService}, &store.Principal{ID: "root/alice", Kind: policy.KindUser})
	who, version, err := s.People().Person("acme", "alice").Open()
	want := &policy.Principal{
		ID: "alice", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"reader"}, Scopes: []string{"orders"}, Permissions: []string{"orders.read"},
		Metadata: map[string]any{"team": "a"}, Issuer: "postern", Claims: map[string]any{"name": "Alice"},
	}
	if diff := cmp.Diff(want, who); err != nil || diff != "" || version != s.People().Person("acme", "alice").Version() {
		t.Errorf("%v, %s", err, diff)
	}
	if who, _, err := s.People().Person("", "root/alice").Open(); err != nil || who.Tenant != "" || who.ID != "root/alice" {
		t.Errorf("%+v, %v", who, err)
	}
	for _, no := range [][2]string{{"acme", "Alice"}, {"acme", "bob"}, {"", "alice"}, {"other", "alice"}, {"acme", "shop"}, {"", "acme/alice"}, {"/root", "alice"}, {"root", "alice"}, {"acme/alice", ""}, {"", ""}} {
		if p := s.People().Person(no[0], no[1]); p != nil {
			t.Errorf("%q is somebody", no)
		}
	}
}

// B-04: after any change of a user there is another version; other users' changes leave
// it. What is disabled does not count, whoever it is that a user falls with.
func TestPersonChanges(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	owner := &store.Principal{Tenant: "acme", ID: "org", Kind: policy.KindService}
	user := alice()
	user.Owner = "org"
	s.put(owner, user)
	p := s.People().Person("acme", "alice")
	seen := map[authn.Version]string{}
	note := func(what string) {
		t.Helper()
		v := s.People().Person("acme", "alice").Version()
		if seen[v] != "" {
			t.Errorf("%s: the version of %s", what, seen[v])
		}
		seen[v] = what
	}
	note("the first")
	user.Password = "another"
	s.put(user)
	note("another password")
	user.Roles = nil
	s.put(user)
	note("no roles")
	before := p.Version()
	s.put(&store.Principal{Tenant: "acme", ID: "bob", Kind: policy.KindUser})
	if p.Version() != before || p.Alive() != nil {
		t.Error("somebody else's change counts")
	}

	off := &store.Ending{At: noon}
	for what, change := range map[string][2]store.Document{
		"the user":   {&store.Principal{Tenant: "acme", ID: "alice", Kind: policy.KindUser, Disabled: off}, user},
		"its owner":  {&store.Principal{Tenant: "acme", ID: "org", Kind: policy.KindService, Disabled: off}, owner},
		"its tenant": {&store.Tenant{ID: "acme", Disabled: off}, &store.Tenant{ID: "acme"}},
	} {
		s.put(change[0])
		var refusal *authn.Refusal
		if err := p.Alive(); !errors.As(err, &refusal) || refusal.Reason != policy.ReasonDisabled {
			t.Errorf("%s is disabled: %v", what, err)
		}
		if who, _, err := p.Open(); who != nil || !errors.As(err, &refusal) {
			t.Errorf("%s is disabled: %v, %v", what, who, err)
		}
		s.put(change[1])
		if err := p.Alive(); err != nil {
			t.Errorf("%s is back: %v", what, err)
		}
	}

	s.put(&store.Principal{Tenant: "acme", ID: "alice", Kind: policy.KindAgent})
	if _, _, err := p.Open(); err == nil || s.People().Person("acme", "alice") != nil {
		t.Error("an agent is a user")
	}
	s.remove(store.KindPrincipal, "acme/alice")
	if _, _, err := p.Open(); err == nil || s.People().Person("acme", "alice") != nil {
		t.Error("who was deleted is there")
	}
}

// Another store has other versions, even if its numbers are the same.
func TestVersionsOfAnotherStore(t *testing.T) {
	t.Parallel()
	var all []authn.Version
	for range 2 {
		s := newScene(t)
		s.put(alice())
		all = append(all, s.People().Person("acme", "alice").Version())
	}
	if all[0].Change != all[1].Change || all[0] == all[1] {
		t.Errorf("%v", all)
	}
}

// Looking somebody up costs no lock, and no more memory than the key.
func TestPersonIsCheap(t *testing.T) {
	s := newScene(t)
	s.put(alice())
	people := s.People()
	if n := testing.AllocsPerRun(100, func() {
		p := people.Person("acme", "alice")
		_, _ = p.Version(), p.Alive()
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPerson(b *testing.B) {
	s := newScene(b)
	for i := range 1000 {
		u := alice()
		u.ID = fmt.Sprint("user", i)
		s.put(u)
	}
	people := s.People()
	b.ReportAllocs()
	for b.Loop() {
		if p := people.Person("acme", "user500"); p.Version().Change == 0 || p.Alive() != nil {
			b.Fatal("nobody")
		}
	}
}
