package mirror_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

const bots = "spiffe://example.org/agents/"

var paper = strings.Repeat("ab", 32)

func bot(id string, change ...func(*store.Principal)) *store.Principal {
	p := &store.Principal{Tenant: "acme", ID: id, Kind: policy.KindAgent, CreatedAt: noon, Agent: &store.Agent{}}
	for _, c := range change {
		c(p)
	}
	return p
}

func researcher() *store.Principal {
	return bot("researcher", func(p *store.Principal) {
		p.Name, p.Owner, p.Roles, p.Scopes, p.Metadata = "Researcher", "planner", []string{"clerk"}, []string{"data:read"}, map[string]any{"team": "a"}
		p.Agent = &store.Agent{
			Model: "gpt-4o-mini", Version: "1.4", Purpose: "reads", Roles: []string{"reader"}, Tools: []string{"search", "github.*"},
			Keys: json.RawMessage(`{"keys":[]}`), SPIFFEIDs: []string{bots + "researcher"}, Certificates: []string{paper},
		}
	})
}

// an agent is found by who it is and by the workload that it is, with all that is
// registered of it, and by nothing that only looks like it.
func TestAgents(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(user("ann"), bot("planner", func(p *store.Principal) { p.Owner = "ann" }), researcher(), service("shop"),
		&store.Principal{ID: "x/y", Kind: policy.KindAgent})
	ix := s.Agents()
	got := ix.Agent("acme", "researcher")
	want := &authn.Agent{
		Principal: &policy.Principal{
			ID: "researcher", Kind: policy.KindAgent, Tenant: "acme", Roles: []string{"clerk"}, Scopes: []string{"data:read"},
			Metadata: map[string]any{"team": "a"}, Issuer: "postern",
			Claims: map[string]any{"name": "Researcher", "owner": "planner", "model": "gpt-4o-mini", "version": "1.4", "purpose": "reads"},
		},
		Ended: policy.ReasonAllowed, Keys: []byte(`{"keys":[]}`), Lineage: []string{"planner", "ann"},
		Roles: []string{"reader"}, Tools: []string{"search", "github.*"}, Version: got.Version,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, same := range map[string]*authn.Agent{
		"again": ix.Agent("acme", "researcher"), "SPIFFE": ix.AgentBySPIFFE(bots + "researcher"), "certificate": ix.AgentByCertificate(paper),
	} {
		if same != got {
			t.Errorf("%s: %+v", name, same)
		}
	}
	for _, no := range [][2]string{{"acme", "shop"}, {"acme", "ann"}, {"acme", "Researcher"}, {"", "researcher"}, {"", "acme/researcher"}, {"acme/researcher", ""}, {"other", "researcher"}, {"", ""}, {"x", "y"}} {
		if a := ix.Agent(no[0], no[1]); a != nil {
			t.Errorf("%q is an agent", no)
		}
	}
	if a := ix.Agent("", "x/y"); a == nil || a.Principal.ID != "x/y" || a.Principal.Tenant != "" {
		t.Errorf("%+v", a)
	}
	for _, no := range []string{"", bots, bots + "Researcher", strings.ToUpper(paper), paper[:63], "researcher"} {
		if ix.AgentBySPIFFE(no) != nil || ix.AgentByCertificate(no) != nil {
			t.Errorf("%q is an agent", no)
		}
	}
	// A policy knows what agent it is by whatever it comes.
	_, secret := s.issue(store.APIKey, "researcher")
	if c := s.prove(secret).Principal.Claims; c["model"] != "gpt-4o-mini" || c["purpose"] != "reads" || c["owner"] != "planner" {
		t.Errorf("%v", c)
	}
	if s.Status().Agents != 3 {
		t.Errorf("%+v", s.Status())
	}
}

// an agent is in force as long as it, all above it and its tenant are. Whatever
// changes of that, there is another version.
func TestAgentsEnd(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	off, over := &store.Ending{At: noon}, func(p *store.Principal) { p.Agent.Decommissioned = &store.Ending{At: noon} }
	ann, planner := user("ann"), bot("planner", func(p *store.Principal) { p.Owner = "ann" })
	s.put(ann, planner, researcher())
	ix := s.Agents()
	seen := map[int64]string{}
	check := func(what string, want policy.Reason) {
		t.Helper()
		a := ix.Agent("acme", "researcher")
		if a == nil || a.Ended != want {
			t.Fatalf("%s: %+v", what, a)
		}
		if seen[a.Version] != "" {
			t.Errorf("%s: the version of %s", what, seen[a.Version])
		}
		seen[a.Version] = what
		if ix.AgentBySPIFFE(bots+"researcher") != a || ix.AgentByCertificate(paper) != a {
			t.Errorf("%s: another by its workloads", what)
		}
		for name, subject := range map[string]authn.Subject{
			"its token": {Agent: "researcher", ID: "researcher", Tenant: "acme", Issuer: "https://idp.example", IssuedAt: noon.Add(time.Hour)},
			"acting":    {Agent: "researcher", ID: "alice", Tenant: "acme"},
			"its paper": {Fingerprint: paper, ID: "whoever"},
			"its SVID":  {ID: bots + "researcher", Issuer: "spiffe://example.org"},
		} {
			if reason, revoked := s.Revoked(&subject); revoked != (want != policy.ReasonAllowed) || revoked && reason != want {
				t.Errorf("%s, %s: %v, %v", what, name, reason, revoked)
			}
		}
		for _, other := range []authn.Subject{
			{ID: "researcher", Tenant: "acme"}, // is no agent
			{Agent: "researcher", Tenant: "other"}, {Agent: "researcher"}, {Agent: "planner2", Tenant: "acme"}, {ID: bots + "other"}, {},
		} {
			if _, revoked := s.Revoked(&other); revoked {
				t.Errorf("%s: %+v is revoked", what, other)
			}
		}
	}
	check("the first", policy.ReasonAllowed)
	for what, change := range map[string]struct {
		off, on store.Document
		want    policy.Reason
	}{
		"the agent":      {researcherWith(func(p *store.Principal) { p.Disabled = off }), researcher(), policy.ReasonDisabled},
		"its parent":     {bot("planner", func(p *store.Principal) { p.Owner, p.Disabled = "ann", off }), planner, policy.ReasonDisabled},
		"its owner":      {user("ann", func(p *store.Principal) { p.Disabled = off }), ann, policy.ReasonDisabled},
		"its tenant":     {&store.Tenant{ID: "acme", Disabled: off}, &store.Tenant{ID: "acme"}, policy.ReasonDisabled},
		"the agent over": {researcherWith(over), researcher(), policy.ReasonRevoked},
		"its parent over": {
			bot("planner", func(p *store.Principal) { p.Owner = "ann" }, over), planner, policy.ReasonRevoked,
		},
	} {
		s.put(change.off)
		check(what, change.want)
		s.put(change.on)
		check(what+", back", policy.ReasonAllowed)
	}
	s.put(user("bob"))
	if len(seen) == 0 || seen[ix.Agent("acme", "researcher").Version] == "" {
		t.Error("somebody else's change counts")
	}
	s.remove(store.KindPrincipal, "acme/ann")
	check("its owner is gone", policy.ReasonDisabled)
	s.put(researcherWith(func(p *store.Principal) { p.Owner = "" }))
	check("nobody's", policy.ReasonAllowed)
	broken := researcher().Columns()
	broken.Body = []byte(`{`)
	s.update(func(tx store.Tx) error { return tx.Put(broken) })
	check("it cannot be read", policy.ReasonDisabled)
	s.put(researcher())
	s.remove(store.KindPrincipal, "acme/researcher")
	if ix.Agent("acme", "researcher") != nil || ix.AgentBySPIFFE(bots+"researcher") != nil || ix.AgentByCertificate(paper) != nil {
		t.Error("who was deleted is there")
	}
}

func researcherWith(change func(*store.Principal)) *store.Principal {
	p := researcher()
	change(p)
	return p
}

// A credential of an agent falls with its end as such, not as of one that is off.
func TestCredentialsOfEndedAgents(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(bot("parent"), bot("child", func(p *store.Principal) { p.Owner = "parent" }))
	_, secret := s.issue(store.APIKey, "child")
	s.prove(secret)
	s.put(bot("parent", func(p *store.Principal) { p.Agent.Decommissioned = &store.Ending{At: noon} }))
	s.refused(secret, policy.ReasonRevoked)
}

// The line of the denylist that an agent's end leaves is of that agent: one of another
// tenant, or of none, has the same id.
func TestLinesOfEndedAgents(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put(&store.Denial{ID: "1", Agent: "bot", Tenant: "acme", Ended: "bot", IssuedBefore: noon},
		&store.Denial{ID: "2", Agent: "other", Ended: "other", IssuedBefore: noon})
	for _, tt := range []struct {
		tenant, agent string
		issued        time.Time
		revoked       bool
	}{
		{"acme", "bot", noon.Add(-1), true}, {"acme", "bot", time.Time{}, true}, {"acme", "bot", noon, false},
		{"", "bot", noon.Add(-1), false}, {"umbrella", "bot", noon.Add(-1), false},
		{"", "other", noon.Add(-1), true}, {"acme", "other", noon.Add(-1), false}, {"", "other", noon, false},
	} {
		if _, revoked := s.Revoked(&authn.Subject{Agent: tt.agent, ID: "x", Tenant: tt.tenant, Issuer: "i", IssuedAt: tt.issued}); revoked != tt.revoked {
			t.Errorf("%+v: %v", tt, revoked)
		}
	}
}

// A workload that another agent has taken over is that one; one that nobody has taken
// over is still the one that ended, and refused.
func TestWorkloadsGoOver(t *testing.T) {
	t.Parallel()
	is := func(names ...string) func(*store.Principal) {
		return func(p *store.Principal) { p.Agent.SPIFFEIDs = names }
	}
	over := func(p *store.Principal) { p.Agent.Decommissioned = &store.Ending{} }
	for _, order := range []string{"old new", "new old"} {
		s := newScene(t)
		ids := strings.Fields(order)
		docs := map[string]store.Document{"old": bot("old", is("w", "left"), over), "new": bot("new", is("w"))}
		for _, id := range ids {
			s.put(docs[id])
		}
		for _, m := range []*mirror.Mirror{s.Mirror, loaded(t, s)} {
			if a := m.Agents().AgentBySPIFFE("w"); a == nil || a.Principal.ID != "new" || a.Ended != policy.ReasonAllowed {
				t.Errorf("%s: %+v", order, a)
			}
			if a := m.Agents().AgentBySPIFFE("left"); a == nil || a.Principal.ID != "old" || a.Ended != policy.ReasonRevoked {
				t.Errorf("%s: %+v", order, a)
			}
		}
		s.put(bot("new"))
		if a := s.Agents().AgentBySPIFFE("w"); a == nil || a.Principal.ID != "old" {
			t.Errorf("%s: %+v", order, a)
		}
		s.remove(store.KindPrincipal, "acme/old")
		if s.Agents().AgentBySPIFFE("w") != nil || s.Agents().AgentBySPIFFE("left") != nil {
			t.Error("a name of nobody is kept")
		}
	}
}

func loaded(t testing.TB, s *scene) *mirror.Mirror {
	t.Helper()
	m := s.replica()
	if err := m.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	return m
}

// T-06: after a restart without the store, agents and their ends are as they were.
func TestAgentsOutliveARestart(t *testing.T) {
	t.Parallel()
	sh := newShelf(t)
	over := func(p *store.Principal) { p.Agent.Decommissioned = &store.Ending{} }
	sh.put(user("ann"), bot("planner", func(p *store.Principal) { p.Owner = "ann" }), researcher(),
		bot("ended", over, func(p *store.Principal) { p.Agent.SPIFFEIDs = []string{bots + "ended"} }),
		bot("below", func(p *store.Principal) { p.Owner = "ended" }),
		&store.Denial{ID: "line", Agent: "lost", Ended: "lost", IssuedBefore: noon})
	m := sh.replica(func(c *mirror.Config) { c.Snapshot = sh.file })
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirror.SaveSnapshot(m)
	back, err := sh.restart()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"researcher", "planner", "ended", "below", "nobody"} {
		if diff := cmp.Diff(sh.Agents().Agent("acme", id), back.Agents().Agent("acme", id)); diff != "" {
			t.Errorf("%s: %s", id, diff)
		}
	}
	if a := back.Agents().AgentBySPIFFE(bots + "ended"); a == nil || a.Ended != policy.ReasonRevoked {
		t.Errorf("%+v", a)
	}
	if a := back.Agents().AgentByCertificate(paper); a == nil || a.Ended != policy.ReasonAllowed {
		t.Errorf("%+v", a)
	}
	for tenant, want := range map[string]bool{"": true, "acme": false} {
		if _, revoked := back.Revoked(&authn.Subject{Agent: "lost", Tenant: tenant}); revoked != want {
			t.Errorf("%q: %v", tenant, revoked)
		}
	}
}

// agentModel says from scratch what an agent is.
type agentModel struct {
	docs map[string]*store.Principal
	off  bool // the tenant
}

func (m agentModel) ended(id string) policy.Reason {
	reason := policy.ReasonAllowed
	if m.off {
		return policy.ReasonDisabled
	}
	for range 17 {
		p := m.docs[id]
		switch {
		case p == nil:
			return policy.ReasonDisabled
		case p.Decommissioned():
			return policy.ReasonRevoked
		case p.Disabled != nil:
			return policy.ReasonDisabled
		}
		if id = p.Owner; id == "" {
			return reason
		}
	}
	return policy.ReasonDisabled
}

func (m agentModel) by(workload string) *store.Principal {
	var over *store.Principal
	for _, id := range []string{"a", "b", "c", "d"} {
		p := m.docs[id]
		if p == nil || p.Kind != policy.KindAgent || !slices.Contains(p.Agent.SPIFFEIDs, workload) {
			continue
		}
		if !p.Decommissioned() {
			return p
		}
		over = p
	}
	return over
}

// after whatever changes, whole or in pieces, a mirror that followed them, one
// that starts now and the model give the same answers.
func TestAgentsAreTheModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := memory.New(func() time.Time { return noon })
		follower := mirror.New(mirror.Config{}, s, mirror.Deps{Now: func() time.Time { return noon }})
		model := agentModel{docs: map[string]*store.Principal{}}
		deleted := map[string]bool{}
		ids, names := []string{"a", "b", "c", "d"}, []string{"w1", "w2", "w3"}
		for range rapid.IntRange(1, 12).Draw(t, "transactions") {
			_, err := s.Update(context.Background(), func(tx store.Tx) error {
				if err := store.Put(tx, &store.Tenant{ID: "acme", Disabled: ended(model.off)}); err != nil {
					return err
				}
				for range rapid.IntRange(1, 4).Draw(t, "changes") {
					id := rapid.SampledFrom(ids).Draw(t, "id")
					if deleted[id] {
						continue
					}
					if model.docs[id] != nil && rapid.IntRange(0, 9).Draw(t, "delete") == 0 {
						deleted[id] = true
						delete(model.docs, id)
						if err := tx.Delete(store.KindPrincipal, "acme/"+id); err != nil {
							return err
						}
						continue
					}
					p := bot(id, func(p *store.Principal) {
						p.Owner = rapid.SampledFrom(append([]string{"", "", "nobody"}, ids...)).Draw(t, "owner")
						p.Disabled = ended(rapid.IntRange(0, 4).Draw(t, "disabled") == 0)
						if id == "d" && rapid.Bool().Draw(t, "user") {
							p.Kind, p.Agent = policy.KindUser, nil
							return
						}
						p.Agent.Decommissioned = ended(rapid.IntRange(0, 4).Draw(t, "over") == 0)
						for _, name := range names {
							free := model.by(name)
							if rapid.Bool().Draw(t, name) && (p.Decommissioned() || free == nil || free.Decommissioned() || free.ID == id) {
								p.Agent.SPIFFEIDs = append(p.Agent.SPIFFEIDs, name)
							}
						}
					})
					model.docs[id] = p
					if err := store.Put(tx, p); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "tenant") {
				model.off = !model.off
				if _, err := s.Update(context.Background(), func(tx store.Tx) error {
					return store.Put(tx, &store.Tenant{ID: "acme", Disabled: ended(model.off)})
				}); err != nil {
					t.Fatal(err)
				}
			}
			if rapid.Bool().Draw(t, "unseen") {
				continue
			}
			starter := mirror.New(mirror.Config{}, s, mirror.Deps{Now: func() time.Time { return noon }})
			for what, m := range map[string]*mirror.Mirror{"follower": follower, "starter": starter} {
				if err := m.Poll(context.Background()); err != nil {
					t.Fatal(err)
				}
				checkAgents(t, what, m, model, ids, names)
			}
		}
	})
}

func checkAgents(t *rapid.T, what string, m *mirror.Mirror, model agentModel, ids, names []string) {
	for _, id := range ids {
		a, want := m.Agents().Agent("acme", id), model.docs[id]
		if is := want != nil && want.Kind == policy.KindAgent; is != (a != nil) || is && a.Ended != model.ended(id) {
			t.Fatalf("%s: %s is %+v, want %v", what, id, a, model.ended(id))
		}
		reason, revoked := m.Revoked(&authn.Subject{Agent: id, Tenant: "acme"})
		if dead := a != nil && a.Ended != policy.ReasonAllowed; revoked != dead || dead && reason != a.Ended {
			t.Fatalf("%s: %s is %v revoked: %v", what, id, a, reason)
		}
	}
	for _, name := range names {
		a, want := m.Agents().AgentBySPIFFE(name), model.by(name)
		if (a == nil) != (want == nil) || want != nil && (a.Ended != model.ended(a.Principal.ID) || !want.Decommissioned() && a.Principal.ID != want.ID) {
			t.Fatalf("%s: %s is %+v, want %+v", what, name, a, want)
		}
	}
}

func ended(is bool) *store.Ending {
	if !is {
		return nil
	}
	return &store.Ending{At: noon}
}

// An answer is of whole changes: a workload that goes from one agent to the other is one
// of them at any moment.
func TestWorkloadsGoOverAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	is := func(id string, has bool) *store.Principal {
		return bot(id, func(p *store.Principal) {
			if has {
				p.Agent.SPIFFEIDs = []string{"w"}
			}
		})
	}
	s.put(is("a", true), is("b", false))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			s.put(is("a", i%2 == 1), is("b", i%2 == 0))
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if a := s.Agents().AgentBySPIFFE("w"); a == nil || a.Ended != policy.ReasonAllowed {
			t.Fatalf("%+v", a)
		}
	}
}

// Looking an agent up costs no memory, nor does looking whether it has ended.
func TestAgentsAreCheap(t *testing.T) {
	s := newScene(t)
	s.put(user("ann"), bot("planner", func(p *store.Principal) { p.Owner = "ann" }), researcher())
	ix := s.Agents()
	subjects := []authn.Subject{
		{Agent: "researcher", ID: "researcher", Tenant: "acme"}, {Fingerprint: paper, ID: bots + "researcher"}, {ID: "alice", Tenant: "acme"},
	}
	if n := testing.AllocsPerRun(100, func() {
		if ix.Agent("acme", "researcher") == nil || ix.AgentBySPIFFE(bots+"researcher") == nil || ix.AgentByCertificate(paper) == nil {
			t.Fatal("it is not there")
		}
		for i := range subjects {
			if _, revoked := s.Revoked(&subjects[i]); revoked {
				t.Fatal("revoked")
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// what an agent costs in memory, and looking for one among many.
func BenchmarkAgents(b *testing.B) {
	const n = 100_000
	s := memory.New(time.Now)
	_, err := s.Update(context.Background(), func(tx store.Tx) error {
		if err := store.Put(tx, &store.Tenant{ID: "acme"}); err != nil {
			return err
		}
		for i := range n {
			err := store.Put(tx, bot(fmt.Sprintf("agent-%06d", i), func(p *store.Principal) {
				p.Agent = &store.Agent{
					Model: "gpt-4o-mini", Version: "1", Purpose: "answers questions", Roles: []string{"reader"}, Tools: []string{"search", "github.*"},
					Keys:      json.RawMessage(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`),
					SPIFFEIDs: []string{fmt.Sprintf("%s%06d", bots, i)},
				}
			}))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	before := heap()
	m := mirror.New(mirror.Config{}, s, mirror.Deps{})
	if err := m.Load(context.Background()); err != nil {
		b.Fatal(err)
	}
	size := float64(heap()-before) / n
	ids, spiffes := make([]string, 1000), make([]string, 1000)
	for i := range ids {
		ids[i], spiffes[i] = fmt.Sprintf("agent-%06d", i*100), fmt.Sprintf("%s%06d", bots, i*100)
		m.Agents().Agent("acme", ids[i])
	}
	b.Run("id", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if m.Agents().Agent("acme", ids[i%len(ids)]) == nil {
				b.Fatal("nobody")
			}
		}
		b.ReportMetric(size, "B/agent")
	})
	b.Run("spiffe", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if m.Agents().AgentBySPIFFE(spiffes[i%len(ids)]) == nil {
				b.Fatal("nobody")
			}
		}
	})
	b.Run("revoked", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, revoked := m.Revoked(&authn.Subject{Agent: ids[i%len(ids)], ID: ids[i%len(ids)], Tenant: "acme"}); revoked {
				b.Fatal("revoked")
			}
		}
	})
}
