package server

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/authn/session"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// tribe is a random tree of agents and of what they own, with all that they hold.
type tribe struct {
	*rapid.T
	registry *registry.Registry
	store    *memory.Store
	owner    map[string]string // of each principal; "" for none
	agents   []string
	keys     []holding // credentials
	visits   []holding // sessions
}

// holding is a secret that somebody holds.
type holding struct{ id, secret, of string }

func (tr *tribe) must(err error) {
	tr.Helper()
	if err != nil {
		tr.Fatal(err)
	}
}

var chief = registry.Call{Actor: registry.Actor{ID: "root", Unlimited: true, Rights: registry.Rights{Roles: []string{registry.PlatformAdmin}}}}

// grow makes a principal below another one, with keys and sessions.
func (tr *tribe) grow(id string) {
	ctx := context.Background()
	owner := rapid.SampledFrom(append([]string{""}, tr.agents...)).Draw(tr.T, "owner of "+id)
	spec := registry.PrincipalSpec{Tenant: "acme", ID: id, Owner: owner}
	user := rapid.IntRange(0, 4).Draw(tr.T, "sort") == 0
	if user {
		spec.Kind = policy.KindUser
		_, _, err := tr.registry.CreatePrincipal(ctx, chief, registry.CreatePrincipalRequest{PrincipalSpec: spec})
		tr.must(err)
	} else {
		_, _, err := tr.registry.CreateAgent(ctx, chief, registry.CreateAgentRequest{AgentSpec: registry.AgentSpec{
			PrincipalSpec: spec, SPIFFEIDs: []string{workloadOf(id)},
		}})
		tr.must(err)
		tr.agents = append(tr.agents, id)
	}
	tr.owner[id] = owner
	for range rapid.IntRange(0, 2).Draw(tr.T, "keys") {
		c := registry.CredentialSpec{Type: store.APIKey, Tenant: "acme", Principal: id, Name: "k"}
		if user {
			c.Type = store.PAT
		}
		near := slices.DeleteFunc(slices.Clone(tr.keys), func(h holding) bool { return !tr.falls(id, h.of) })
		if len(near) > 0 && rapid.Bool().Draw(tr.T, "below a key") {
			c.Parent = rapid.SampledFrom(near).Draw(tr.T, "parent").id
		}
		made, _, err := tr.registry.IssueCredential(ctx, chief, registry.IssueRequest{CredentialSpec: c})
		tr.must(err)
		tr.keys = append(tr.keys, holding{made.ID, made.Secret.Reveal(), id})
	}
	if user {
		made, _, err := tr.registry.CreateSession(ctx, chief, registry.SessionSpec{Tenant: "acme", Principal: id})
		tr.must(err)
		tr.visits = append(tr.visits, holding{made.ID, made.Secret.Reveal(), id})
	}
}

func workloadOf(id string) string { return "spiffe://example.org/agents/" + id }

// falls reports whether one falls with another: is it, or owned by it over any number of
// steps.
func (tr *tribe) falls(id, with string) bool {
	for ; id != ""; id = tr.owner[id] {
		if id == with {
			return true
		}
	}
	return false
}

// whatever the tree of agents, when one is decommissioned nothing that it or any
// below it held is in force, in the store and on every replica, and all else is as it was.
func TestNothingOutlivesAnAgent(t *testing.T) {
	t.Parallel()
	const pepper = "a pepper that is in a test and so is no secret"
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret(pepper)}})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		clock := func() time.Time { return now }
		tr := &tribe{T: t, store: memory.New(clock), owner: map[string]string{}}
		tr.registry = registry.New(registry.Config{}, tr.store, registry.Deps{Now: clock, Peppers: peppers})
		_, _, err := tr.registry.CreateTenant(t.Context(), chief, registry.TenantSpec{ID: "acme"})
		tr.must(err)
		follower := mirror.New(mirror.Config{}, tr.store, mirror.Deps{Now: clock, Peppers: peppers})
		tr.must(follower.Poll(t.Context()))
		for i := range rapid.IntRange(1, 12).Draw(t, "principals") {
			tr.grow(fmt.Sprint("p", i))
		}
		tr.must(follower.Poll(t.Context()))
		gone := map[string]bool{}
		for range rapid.IntRange(1, 3).Draw(t, "ends") {
			if len(tr.agents) == 0 {
				break
			}
			root := rapid.SampledFrom(tr.agents).Draw(t, "root")
			_, change, err := tr.registry.DecommissionAgent(t.Context(), chief, registry.AgentRequest{Tenant: "acme", ID: root})
			tr.must(err)
			for id := range tr.owner {
				gone[id] = gone[id] || tr.falls(id, root)
			}
			tr.must(follower.Poll(t.Context()))
			if follower.View().Number < change.Number {
				t.Fatal("the change is not in the feed")
			}
			tr.check(gone, follower, peppers, pepper, clock)
		}
		starter := mirror.New(mirror.Config{}, tr.store, mirror.Deps{Now: clock, Peppers: peppers})
		tr.must(starter.Poll(t.Context()))
		tr.check(gone, starter, peppers, pepper, clock)
	})
}

func (tr *tribe) check(gone map[string]bool, m *mirror.Mirror, peppers *seal.Peppers, pepper string, clock func() time.Time) {
	ctx := context.Background()
	keys, err := apikey.New(apikey.Config{Pepper: policy.NewSecret(pepper)}, apikey.Deps{Now: clock, Indexes: []authn.Index{m.Credentials()}})
	tr.must(err)
	sessions, err := session.New(session.Config{}, session.Deps{Index: m.Sessions(), Peppers: peppers, Now: clock})
	tr.must(err)
	for _, h := range tr.keys {
		p, err := keys.Authenticate(ctx, &authn.Credential{Uses: []policy.Method{policy.MethodAPIKey, policy.MethodPAT}, Secret: policy.NewSecret(h.secret)})
		if (err != nil) != gone[h.of] {
			tr.Fatalf("the key %s of %s: %+v, %v", h.id, h.of, p, err)
		}
		c, err := tr.registry.GetCredential(ctx, chief.Actor, h.id)
		tr.must(err)
		if (c.State == registry.Revoked) != gone[h.of] {
			tr.Fatalf("the key %s of %s is %s in the store", h.id, h.of, c.State)
		}
	}
	for _, h := range tr.visits {
		p, err := sessions.Authenticate(ctx, &authn.Credential{Uses: []policy.Method{policy.MethodSession}, Secret: policy.NewSecret(h.secret)})
		if (err != nil) != gone[h.of] {
			tr.Fatalf("the session of %s: %+v, %v", h.of, p, err)
		}
		if _, err := tr.registry.GetSession(ctx, chief.Actor, h.id); (err != nil) != gone[h.of] {
			tr.Fatalf("the session of %s in the store: %v", h.of, err)
		}
	}
	for _, id := range tr.agents {
		a := m.Agents().Agent("acme", id)
		if a == nil || (a.Ended != policy.ReasonAllowed) != gone[id] || m.Agents().AgentBySPIFFE(workloadOf(id)) != a {
			tr.Fatalf("%s is %+v", id, a)
		}
		p, err := tr.registry.GetAgent(ctx, chief.Actor, "acme", id)
		tr.must(err)
		if p.Decommissioned() != gone[id] {
			tr.Fatalf("%s is %+v in the store", id, p)
		}
		for what, s := range map[string]authn.Subject{
			"a token of before": {Agent: id, ID: id, Tenant: "acme", Issuer: "https://idp.example", IssuedAt: clock().Add(-time.Hour)},
			"one of tomorrow":   {Agent: id, ID: id, Tenant: "acme", Issuer: "https://idp.example", IssuedAt: clock().Add(24 * time.Hour)},
			"one it acts by":    {Agent: id, ID: "carol", Tenant: "acme"},
			"its SVID":          {ID: workloadOf(id)},
		} {
			if _, revoked := m.Revoked(&s); revoked != gone[id] {
				tr.Fatalf("%s, %s: revoked %v", id, what, revoked)
			}
		}
	}
}
