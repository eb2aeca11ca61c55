package mirror

import (
	"errors"
	"hash/fnv"
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// An agent is a principal, and has its place among them. Two tables lead to that place
// besides: by tenant and id, without putting the key together, and by the names of the
// workloads that it is.
//
// A name can have several agents: those that were decommissioned keep what they were, so
// that a workload which nobody has taken over is refused, and not taken for one that was
// never registered. One at most of them is living, and that one counts.

// registered is what is known of an agent besides what it is as a principal.
type registered struct {
	*pooled[duties]
	keys         []byte
	spiffe       []string
	certificates []string
	over         bool // decommissioned
	agent        atomic.Pointer[authn.Agent]
}

// duties are what many agents have in common.
type duties struct {
	Model, Version, Purpose string
	Roles, Tools            []string
}

func (d *duties) appendText(b []byte) ([]byte, error) { //nolint:unparam // as poolable has it
	for _, text := range [...]string{d.Model, d.Version, d.Purpose} {
		b = appendCounted(b, text)
	}
	return appendLists(b, d.Roles, d.Tools), nil
}

func (d *duties) detach() {
	for _, text := range [...]*string{&d.Model, &d.Version, &d.Purpose} {
		*text = strings.Clone(*text)
	}
	detachLists(&d.Roles, &d.Tools)
}

// decommissioned reports whether it is an agent that was ended for good.
func (r *registered) decommissioned() bool { return r != nil && r.over }

// is reports whether the agent is a workload.
func (r *registered) is(workload string) bool {
	return r != nil && (slices.Contains(r.spiffe, workload) || slices.Contains(r.certificates, workload))
}

// workloads lists the names of what it is.
func (r *registered) workloads(yield func(string) bool) {
	if r == nil {
		return
	}
	for _, list := range [...][]string{r.spiffe, r.certificates} {
		for _, name := range list {
			if !yield(name) {
				return
			}
		}
	}
}

// agent reads what is registered of an agent; of may be nil.
func (r *decoder) agent(of *store.Agent) (*registered, error) {
	if of == nil {
		of = &store.Agent{}
	}
	a := &registered{
		keys: of.Keys, spiffe: of.SPIFFEIDs, certificates: of.Certificates, over: of.Decommissioned != nil,
	}
	var err error
	a.pooled, r.scratch, err = intern(r.mirror.duties, &duties{
		Model: of.Model, Version: of.Version, Purpose: of.Purpose, Roles: of.Roles, Tools: of.Tools,
	}, r.scratch)
	return a, err
}

// document is the way back.
func (r *registered) document() *store.Agent {
	if r == nil {
		return nil
	}
	d := &r.value
	return &store.Agent{
		Model: d.Model, Version: d.Version, Purpose: d.Purpose, Roles: d.Roles, Tools: d.Tools,
		Keys: r.keys, SPIFFEIDs: r.spiffe, Certificates: r.certificates, Decommissioned: ending(r.over),
	}
}

// name is what a principal is called.
type name struct{ tenant, id string }

func (p *principal) name() name {
	tenant, id := store.SplitPrincipalKey(p.key)
	return name{tenant, id}
}

func hashName(seed maphash.Seed, n name) uint64 {
	return maphash.String(seed, n.tenant) ^ 0x9e3779b97f4a7c15*maphash.String(seed, n.id)
}

// workload says who has a name: several at most for a moment, but for those that were
// decommissioned. It does not change.
type workload struct {
	name string
	of   []*principal
}

// enrol makes an agent known by what it is from now on. Readers of before find no more
// than they did: they ask the state that counts for them.
func (w *world) enrol(p *principal, s *state[principalBody]) {
	if s.gone() || s.body.agent == nil && !s.body.damaged {
		return
	}
	// What cannot be read may be an agent.
	w.agents.put(p)
	for name := range s.body.agent.workloads {
		l := &workload{name: strings.Clone(name)}
		if had := w.workloads.get(name); had != nil {
			if slices.Contains(had.of, p) {
				continue
			}
			l.of = slices.Clip(had.of)
		}
		l.of = append(l.of, p)
		w.workloads.put(l)
	}
}

// strike forgets what an agent was before, and is no more.
func (w *world) strike(p *principal, before *state[principalBody]) {
	now := p.state.there()
	if now == nil || now.body.agent == nil && !now.body.damaged {
		if w.agents.get(p.name()) == p {
			w.agents.remove(p.name())
		}
	}
	if before == nil {
		return
	}
	for name := range before.body.agent.workloads {
		if now != nil && now.body.agent.is(name) {
			continue
		}
		had := w.workloads.get(name)
		if had == nil {
			continue
		}
		if left := slices.DeleteFunc(slices.Clone(had.of), func(other *principal) bool { return other == p }); len(left) > 0 {
			w.workloads.put(&workload{name: had.name, of: left})
		} else {
			w.workloads.remove(name)
		}
	}
}

// Agents is the index of registered agents: of all principals of that kind.
func (m *Mirror) Agents() authn.Agents { return agents{m} }

type agents struct{ m *Mirror }

// Agent implements authn.Agents. Names are those of the records, letter by letter.
func (ix agents) Agent(tenant, id string) *authn.Agent {
	return ix.m.world.Load().agentNamed(name{tenant, id})
}

func (w *world) agentNamed(n name) *authn.Agent {
	p := w.agents.get(n)
	if p == nil {
		return nil
	}
	for {
		head := w.head.Load()
		a := p.agent(head)
		if w.head.Load() == head {
			return a
		}
	}
}

// AgentBySPIFFE implements authn.Agents.
func (ix agents) AgentBySPIFFE(id string) *authn.Agent { return ix.m.world.Load().agentOf(id) }

// AgentByCertificate implements authn.Agents.
func (ix agents) AgentByCertificate(fingerprint string) *authn.Agent {
	return ix.m.world.Load().agentOf(fingerprint)
}

// agentOf returns the living agent that a workload is; if there is none, one that was
// decommissioned.
func (w *world) agentOf(workload string) *authn.Agent {
	if workload == "" || w.workloads.len() == 0 {
		return nil
	}
	for {
		head := w.head.Load()
		var a *authn.Agent
		if l := w.workloads.get(workload); l != nil { // behind head, or it could be of before
			a = l.agent(head)
		}
		if w.head.Load() == head {
			return a
		}
	}
}

func (l *workload) agent(head int64) *authn.Agent {
	var ended *principal
	for _, p := range l.of {
		s := p.state.at(head)
		switch {
		case s == nil || !s.body.agent.is(l.name):
		case s.body.agent.over:
			ended = p
		default:
			return p.agent(head)
		}
	}
	if ended == nil {
		return nil
	}
	return ended.agent(head)
}

// agent returns the principal as an agent; nil if it is none. It is built when anything
// of it is not as it was when it was asked for last.
func (p *principal) agent(head int64) *authn.Agent {
	s := p.state.at(head)
	if s == nil || s.body.agent == nil {
		return nil
	}
	ended, version := p.standing(head)
	known := s.body.agent.agent.Load()
	if known != nil && known.Version == version && known.Ended == ended {
		return known
	}
	fresh := p.buildAgent(head, s)
	fresh.Ended, fresh.Version = ended, version
	s.body.agent.agent.Store(fresh)
	return fresh
}

// standing says why an agent is not in force, and when that, or anything of it, its owners
// or its tenant, was last changed. Another store has other versions.
func (p *principal) standing(head int64) (policy.Reason, int64) {
	last := int64(0)
	if p.tenant != nil {
		last = p.tenant.state.lastAt(head)
	}
	next := p
	for range maxDepth + 1 {
		last = max(last, next.state.lastAt(head))
		s := next.state.at(head)
		if s == nil || s.body.owner == nil {
			break
		}
		next = s.body.owner
	}
	_, err := p.alive(head)
	return reasonOf(err), p.world.salt + last
}

// reasonOf says why something does not count. What cannot be read does not.
func reasonOf(err error) policy.Reason {
	if err == nil {
		return policy.ReasonAllowed
	}
	var refusal *authn.Refusal // behind the answer that most get: it costs memory
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return policy.ReasonDisabled
}

func (p *principal) buildAgent(head int64, s *state[principalBody]) *authn.Agent {
	n, of, r := p.name(), &s.body.person.value, s.body.agent
	a := &authn.Agent{
		Principal: &policy.Principal{
			ID: n.id, Kind: policy.KindAgent, Tenant: n.tenant,
			Roles: of.Roles, Scopes: of.Scopes, Permissions: of.Permissions, Metadata: of.Metadata,
			Issuer: seal.Issuer, Claims: s.body.claims("name", s.body.name),
		},
		Keys: r.keys, Roles: r.value.Roles, Tools: r.value.Tools,
	}
	for next := s.body.owner; next != nil && len(a.Lineage) < maxDepth; {
		a.Lineage = append(a.Lineage, next.name().id)
		above := next.state.at(head)
		if above == nil {
			break
		}
		next = above.body.owner
	}
	return a
}

// claims are what is told of a principal besides its rights: pairs, whose it is, and
// what is registered of an agent.
func (b *principalBody) claims(pairs ...string) map[string]any {
	pairs = append(pairs, "owner", b.ownerID())
	if b.agent != nil {
		d := &b.agent.value
		pairs = append(pairs, "model", d.Model, "version", d.Version, "purpose", d.Purpose)
	}
	return claims(pairs...)
}

// agentOver reports whether a credential is of an agent that is registered and not in
// force, by whatever name it goes: an agent that is ended signs no more, shows its
// certificate in vain, and nobody acts by it.
func (w *world) agentOver(s *authn.Subject) (policy.Reason, bool) {
	if s.Agent != "" {
		if p := w.agents.get(name{s.Tenant, s.Agent}); p != nil {
			if reason := w.agentEnded(p); reason != policy.ReasonAllowed {
				return reason, true
			}
		}
	}
	if a := w.agentOf(s.Fingerprint); a != nil && a.Ended != policy.ReasonAllowed {
		return a.Ended, true
	}
	if strings.HasPrefix(s.ID, "spiffe://") {
		if a := w.agentOf(s.ID); a != nil && a.Ended != policy.ReasonAllowed {
			return a.Ended, true
		}
	}
	return policy.ReasonUnspecified, false
}

// agentEnded says why an agent is not in force. Who is none any more is nobody's.
func (w *world) agentEnded(p *principal) policy.Reason {
	for {
		head := w.head.Load()
		reason := policy.ReasonAllowed
		if s := p.state.at(head); s != nil && (s.body.agent != nil || s.body.damaged) {
			_, err := p.alive(head)
			reason = reasonOf(err)
		}
		if w.head.Load() == head {
			return reason
		}
	}
}

// saltOf tells stores apart in the versions of agents, which are no numbers of changes
// that anybody could compare.
func saltOf(epoch string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(epoch))
	return int64(h.Sum64() >> 2)
}
