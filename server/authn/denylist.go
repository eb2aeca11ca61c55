package authn

import (
	"cmp"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Revocation is one line of a denylist: it names what is no longer believed,
// although its signature is good and its time has not run out. Exactly one of
// JTI, SID, KID, Fingerprint, Subject, Client, Agent and Tenant is set.
type Revocation struct {
	// JTI revokes one token by its jti claim, or one key by its id.
	JTI string `yaml:"jti"`
	// SID revokes all tokens of one session by their sid claim, or a session of
	// Postern's own by its id.
	SID string `yaml:"sid"`
	// KID revokes all tokens that the issuer signed with this key.
	KID string `yaml:"kid"`
	// Fingerprint revokes a certificate by its SHA-256 in lower-case hex.
	Fingerprint string `yaml:"fingerprint"`
	// Subject, Client, Agent and Tenant revoke all their tokens that were issued
	// before IssuedBefore. A token that does not say when it was issued is among
	// them. Agent means those too by which the agent acts for somebody else.
	Subject string `yaml:"subject"`
	Client  string `yaml:"client"`
	Agent   string `yaml:"agent"`
	Tenant  string `yaml:"tenant"`
	// Issuer is whose token is meant, as its iss claim has it; "postern" for own
	// keys. Required with KID, Subject and Client, whose names mean nothing
	// without it; with the others, leaving it out means every issuer.
	Issuer string `yaml:"issuer"`
	// IssuedBefore is an instant in RFC 3339. Required with Subject, Client, Agent
	// and Tenant, and only there. A token issued at the very instant stays good.
	IssuedBefore time.Time `yaml:"issued_before"`
	// Note says why, for people.
	Note string `yaml:"note"`
	// Within bounds the line to credentials of one tenant, whose own line it is, or by
	// NoTenant to those of none; empty for all.
	Within string `yaml:"-"`
}

// NoTenant stands in Revocation.Within for having no tenant. It is no tenant's name.
const NoTenant = "/"

// denied is what one line names. An empty issuer is every issuer, an empty tenant every
// tenant. The tenant is part of it so that no tenant's lines, however many, make the
// look-ups of another one slow.
type denied struct {
	what                 denial
	issuer, name, within string
}

// denial is what sort of name a line holds.
type denial uint8

const (
	byToken denial = iota
	bySession
	byKey
	byFingerprint
	bySubject
	byClient
	byAgent
	byTenant
	denials
)

// Denylist answers whether a credential was revoked. One goroutine may change it
// while any number look; nil revokes nothing. A look-up costs at most 32 map reads
// and no allocation, however long the list is.
//
// It is cut into shards, each a map that never changes: a change copies the one
// shard that it concerns, about a thousandth of the list.
type Denylist struct {
	seed   maphash.Seed
	shards [denylistShards]shard
	// counts is how many lines name each sort of thing, so that what nobody named
	// costs nothing.
	counts [denials]atomic.Int64
	// bounded is how many lines are bounded to a tenant.
	bounded atomic.Int64
	// lines is the writer's: what each line names.
	lines map[string]denied
}

const denylistShards = 1024

type shard = atomic.Pointer[map[denied][]ban]

// ban is what one line says of a name: what was issued before the instant is
// revoked, and without one, everything.
type ban struct {
	line   string
	before time.Time
}

// The mistakes that a revocation can hold.
var (
	errRevokeOne    = errors.New("a revocation names exactly one of jti, sid, kid, fingerprint, subject, client, agent, tenant")
	errRevokeIssuer = errors.New("kid, subject and client need an issuer: names mean nothing without it")
	errRevokeBefore = errors.New("subject, client, agent and tenant need issued_before, the others must not have it")
	errRevokeHex    = errors.New("a fingerprint is the SHA-256 of a certificate: 64 hex digits in lower case, without colons")
)

// NewDenylist returns an empty denylist.
func NewDenylist() *Denylist {
	return &Denylist{seed: maphash.MakeSeed(), lines: map[string]denied{}}
}

// Validate reports what is wrong with the line.
func (r *Revocation) Validate() error {
	n := 0
	for _, name := range []string{r.JTI, r.SID, r.KID, r.Fingerprint, r.Subject, r.Client, r.Agent, r.Tenant} {
		if name != "" {
			n++
		}
	}
	before := r.Subject+r.Client+r.Agent+r.Tenant != ""
	switch {
	case n != 1:
		return errRevokeOne
	case r.KID+r.Subject+r.Client != "" && r.Issuer == "":
		return errRevokeIssuer
	case before == r.IssuedBefore.IsZero():
		return errRevokeBefore
	case r.Fingerprint != "" && !isFingerprint(r.Fingerprint):
		return errRevokeHex
	}
	return nil
}

func isFingerprint(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 64
}

func (r *Revocation) denied() denied {
	for what, name := range [denials]string{
		byToken: r.JTI, bySession: r.SID, byKey: r.KID, byFingerprint: r.Fingerprint,
		bySubject: r.Subject, byClient: r.Client, byAgent: r.Agent, byTenant: r.Tenant,
	} {
		if name != "" {
			return denied{denial(what), r.Issuer, name, r.Within}
		}
	}
	return denied{}
}

// Set adds a line, or puts it in the place of the one with the same id. A line that
// is not valid is refused, and the one before it stays. Of two lines for the same
// subject the later instant counts. Only one goroutine may call Set and Remove.
func (d *Denylist) Set(line string, r *Revocation) error { return d.set(line, r, copied) }

// Fill is Set for a denylist that nobody looks at yet: it copies no shard.
func (d *Denylist) Fill(line string, r *Revocation) error { return d.set(line, r, inPlace) }

// Remove takes a line off the list; it may not be there.
func (d *Denylist) Remove(line string) {
	if n, ok := d.lines[line]; ok {
		delete(d.lines, line)
		d.drop(n, line, copied)
	}
}

func (d *Denylist) set(line string, r *Revocation, shard func(*shard) map[denied][]ban) error {
	if err := r.Validate(); err != nil {
		return err
	}
	n := r.denied()
	old, had := d.lines[line]
	if !had || old != n {
		d.count(n, 1)
	}
	d.lines[line] = n
	s := d.shard(n.name)
	m := shard(s)
	bans := m[n]
	if had && old == n {
		bans = without(bans, line)
	}
	// Readers of the map before may share the array, and look at no more of it than
	// there was.
	m[n] = append(bans, ban{line, r.IssuedBefore})
	s.Store(&m)
	if had && old != n {
		d.drop(old, line, shard)
	}
	return nil
}

func (d *Denylist) drop(n denied, line string, shard func(*shard) map[denied][]ban) {
	s := d.shard(n.name)
	m := shard(s)
	if m[n] = without(m[n], line); len(m[n]) == 0 {
		delete(m, n)
	}
	s.Store(&m)
	d.count(n, -1)
}

func (d *Denylist) count(n denied, lines int64) {
	d.counts[n.what].Add(lines)
	if n.within != "" {
		d.bounded.Add(lines)
	}
}

func (d *Denylist) shard(name string) *shard {
	return &d.shards[maphash.String(d.seed, name)%denylistShards]
}

// copied returns a copy of the shard's map, inPlace the map itself.
func copied(s *shard) map[denied][]ban {
	if m := s.Load(); m != nil {
		return maps.Clone(*m)
	}
	return map[denied][]ban{}
}

func inPlace(s *shard) map[denied][]ban {
	if m := s.Load(); m != nil {
		return *m
	}
	return map[denied][]ban{}
}

// without returns a copy of the bans but those of a line.
func without(bans []ban, line string) []ban {
	return slices.DeleteFunc(slices.Clone(bans), func(b ban) bool { return b.line == line })
}

// Len returns the number of lines.
func (d *Denylist) Len() int {
	if d == nil {
		return 0
	}
	n := int64(0)
	for i := range d.counts {
		n += d.counts[i].Load()
	}
	return int(n)
}

// Revoked reports whether the credential was revoked, with the reason to give.
func (d *Denylist) Revoked(s *Subject) (policy.Reason, bool) {
	if d == nil {
		return policy.ReasonUnspecified, false
	}
	revoked := d.names(byToken, s.TokenID, s) || d.names(bySession, s.SessionID, s) ||
		d.names(byKey, s.KeyID, s) || d.names(byFingerprint, s.Fingerprint, s) ||
		d.names(bySubject, s.ID, s) || d.names(byClient, s.Client, s) ||
		d.names(byAgent, s.Agent, s) || d.names(byTenant, s.Tenant, s)
	if !revoked {
		return policy.ReasonUnspecified, false
	}
	return policy.ReasonRevoked, true
}

// names reports whether a line names what was issued then, of its issuer or of
// every issuer. The zero time is before every instant, so no iat means revoked.
func (d *Denylist) names(what denial, name string, s *Subject) bool {
	if name == "" || d.counts[what].Load() == 0 {
		return false
	}
	m := d.shard(name).Load()
	if m == nil {
		return false
	}
	if bans((*m)[denied{what, s.Issuer, name, ""}], s) || bans((*m)[denied{what, "", name, ""}], s) {
		return true
	}
	if d.bounded.Load() == 0 {
		return false
	}
	within := cmp.Or(s.Tenant, NoTenant)
	return bans((*m)[denied{what, s.Issuer, name, within}], s) || bans((*m)[denied{what, "", name, within}], s)
}

func bans(all []ban, s *Subject) bool {
	for i := range all {
		if b := &all[i]; b.before.IsZero() || s.IssuedAt.Before(b.before) {
			return true
		}
	}
	return false
}
