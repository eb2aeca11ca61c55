package mirror

import (
	"strings"
	"sync/atomic"

	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/store"
)

// world is everything that is known of one store. One goroutine writes it. A store
// that has become another one gets a world of its own, which is built aside and
// swapped in.
type world struct {
	mirror *Mirror
	epoch  string
	salt   int64 // of the versions of agents
	// head is the last change that readers see. A batch writes its states behind the
	// ones in force and then moves head, so that each answer is made of whole changes:
	// see settled.
	head atomic.Int64
	// visible is set when readers know the world; until then nothing has to be kept
	// for them.
	visible bool
	// after is the writer's: what is to be done when head has moved.
	after []func()

	tenants     *table[string, tenant]
	principals  *table[string, principal]
	agents      *table[name, principal] // those of principals that are agents
	workloads   *table[string, workload]
	credentials *table[string, credential]
	foreign     *table[[32]byte, credential]
	sessions    *table[string, session]
	denials     *table[string, denial]
	approvals   *table[string, approval]
	consents    *table[string, consent]
	consentsOf  *table[delegation, consent] // by whose they are, and to whom
	denylist    *authn.Denylist
}

// denial is a line of the denylist, for the snapshot.
type denial struct {
	id      string
	version int64
	doc     *store.Denial
}

func newWorld(m *Mirror, epoch string) *world {
	return &world{
		mirror: m, epoch: epoch, salt: saltOf(epoch),
		tenants:     newTable(func(t *tenant) string { return t.id }, hashText),
		principals:  newTable(func(p *principal) string { return p.key }, hashText),
		agents:      newTable((*principal).name, hashName),
		workloads:   newTable(func(l *workload) string { return l.name }, hashText),
		credentials: newTable(func(c *credential) string { return c.id }, hashText),
		foreign:     newTable(func(c *credential) [32]byte { return c.sum }, hashSum),
		sessions:    newTable(func(s *session) string { return s.id }, hashText),
		denials:     newTable(func(d *denial) string { return d.id }, hashText),
		approvals:   newTable(func(a *approval) string { return a.id }, hashText),
		consents:    newTable(func(c *consent) string { return c.id }, hashText),
		consentsOf:  newTable(func(c *consent) delegation { return c.of }, hashDelegation),
		denylist:    authn.NewDenylist(),
	}
}

// apply makes a batch known up to a number.
func (w *world) apply(batch []decoded, upTo int64) {
	for i := range batch {
		d := &batch[i]
		w.mirror.noteDamage(d)
		switch d.kind {
		case store.KindCredential:
			w.applyCredential(d)
		case store.KindSession:
			w.applySession(d)
		case store.KindPrincipal:
			w.applyPrincipal(d)
		case store.KindTenant:
			w.applyTenant(d)
		case store.KindDenial:
			w.applyDenial(d)
		case store.KindApproval:
			w.applyApproval(d)
		case store.KindConsent:
			w.applyConsent(d)
		}
	}
	w.head.Store(upTo)
	for _, f := range w.after {
		f()
	}
	clear(w.after)
	w.after = w.after[:0]
}

// put writes a state behind the one in force. done is called when no reader needs
// the one before any more.
func put[B any](w *world, c *cell[B], s *state[B], done func(before *state[B])) {
	before := c.latest.Load()
	if w.visible {
		s.before.Store(before)
		w.after = append(w.after, func() {
			s.before.Store(nil)
			done(before)
		})
	}
	c.latest.Store(s)
	if !w.visible {
		done(before)
	}
}

func (w *world) applyCredential(d *decoded) {
	c := w.credentials.get(d.id)
	switch {
	case c == nil && (d.gone || d.err != nil):
		return // what cannot be read has no digest to be found by
	case d.gone:
		put(w, &c.state, goneSince[credentialBody](d.version), func(*state[credentialBody]) { w.dropCredential(c) })
		return
	case d.err != nil:
		put(w, &c.state, &state[credentialBody]{version: d.version, body: credentialBody{life: lost}}, func(*state[credentialBody]) {})
		return
	}
	if c != nil && (c.sum != d.sum || c.pepper != d.pepper || c.owner.key != d.owner) {
		w.dropCredential(c) // ids are not used again: this is no store of ours
		c = nil
	}
	if c != nil {
		put(w, &c.state, d.credential, func(*state[credentialBody]) {})
		return
	}
	c = &credential{sum: d.sum, pepper: d.pepper, id: d.id, owner: w.principal(d.owner)}
	c.owner.used++
	c.state.latest.Store(d.credential)
	w.credentials.put(c)
	if c.pepper == 0 {
		w.foreign.put(c)
	}
}

func (w *world) dropCredential(c *credential) {
	if w.credentials.get(c.id) == c {
		w.credentials.remove(c.id)
	}
	if c.pepper == 0 && w.foreign.get(c.sum) == c {
		w.foreign.remove(c.sum)
	}
	w.release(c.owner)
}

func (w *world) applySession(d *decoded) {
	s := w.sessions.get(d.id)
	switch {
	case s == nil && (d.gone || d.err != nil):
		return
	case d.gone:
		put(w, &s.state, goneSince[sessionBody](d.version), func(*state[sessionBody]) { w.dropSession(s) })
		return
	case d.err != nil:
		put(w, &s.state, &state[sessionBody]{version: d.version, body: sessionBody{life: lost}}, func(*state[sessionBody]) {})
		return
	}
	if s != nil && (s.sum != d.sum || s.pepper != d.pepper || s.owner.key != d.owner) {
		w.dropSession(s)
		s = nil
	}
	if s != nil {
		s.touchedAt(d.idle)
		put(w, &s.state, d.session, func(*state[sessionBody]) {})
		return
	}
	s = &session{sum: d.sum, pepper: d.pepper, id: d.id, owner: w.principal(d.owner)}
	s.owner.used++
	s.touched.Store(d.idle)
	s.state.latest.Store(d.session)
	w.sessions.put(s)
}

// touchedAt moves the time of last use, never back.
func (s *session) touchedAt(at int64) {
	for {
		old := s.touched.Load()
		if at <= old || s.touched.CompareAndSwap(old, at) {
			return
		}
	}
}

func (w *world) dropSession(s *session) {
	if w.sessions.get(s.id) == s {
		w.sessions.remove(s.id)
	}
	w.release(s.owner)
}

// principal returns the place of a principal, whether there is one yet or not.
func (w *world) principal(key string) *principal {
	if p := w.principals.get(key); p != nil {
		return p
	}
	p := &principal{key: key, world: w}
	if name, _ := store.SplitPrincipalKey(key); name != "" {
		p.tenant = w.tenant(name)
	}
	w.principals.put(p)
	return p
}

// tenant returns the place of a tenant. Tenants are few: places stay for ever.
func (w *world) tenant(id string) *tenant {
	if t := w.tenants.get(id); t != nil {
		return t
	}
	t := &tenant{id: strings.Clone(id)}
	w.tenants.put(t)
	return t
}

// release gives up a pointer to a place, and the place itself if it was the last
// and nobody is there.
func (w *world) release(p *principal) {
	p.used--
	w.tidy(p)
}

func (w *world) tidy(p *principal) {
	if p.used == 0 && p.state.there() == nil {
		w.principals.remove(p.key)
	}
}

func (w *world) applyPrincipal(d *decoded) {
	if d.gone && w.principals.get(d.id) == nil {
		return
	}
	p := w.principal(d.id)
	s := d.principal
	switch {
	case d.gone:
		s = goneSince[principalBody](d.version)
	case d.err != nil:
		s = &state[principalBody]{version: d.version, body: principalBody{damaged: true}}
		if was := p.state.there(); was != nil && was.body.agent != nil {
			// So that the workload that it was is refused, and not taken for another.
			s.body.person, s.body.agent = was.body.person, was.body.agent
		}
	case d.owner != "":
		s.body.owner = w.principal(d.owner)
		s.body.owner.used++
	}
	w.enrol(p, s)
	put(w, &p.state, s, func(before *state[principalBody]) {
		if before != nil && before.body.owner != nil {
			w.release(before.body.owner)
		}
		w.strike(p, before)
		w.tidy(p)
	})
}

func (w *world) applyTenant(d *decoded) {
	s := d.tenant
	switch {
	case d.gone:
		s = goneSince[tenantBody](d.version)
	case d.err != nil:
		s = &state[tenantBody]{version: d.version, body: tenantBody{damaged: true}}
	}
	put(w, &w.tenant(d.id).state, s, func(*state[tenantBody]) {})
}

// applyDenial adds lines before the rest of the change is visible, and takes them
// off after it. A line that cannot be read leaves the one that it replaces.
func (w *world) applyDenial(d *decoded) {
	switch {
	case d.gone:
		gone := w.denials.get(d.id)
		switch {
		case gone == nil:
		case !w.visible:
			w.dropDenial(gone)
		default:
			w.after = append(w.after, func() { w.dropDenial(gone) })
		}
	case d.err == nil:
		set := w.denylist.Set
		if !w.visible {
			set = w.denylist.Fill
		}
		line := revocation(d.denial)
		if set(d.id, &line) == nil {
			w.denials.put(&denial{id: d.id, version: d.version, doc: d.denial})
		}
	}
}

func (w *world) dropDenial(d *denial) {
	w.denylist.Remove(d.id)
	w.denials.remove(d.id)
}
