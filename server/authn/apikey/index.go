package apikey

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
)

// assurance is the level of a key: a bearer secret.
const assurance = 2

// index is the content of a keys file, built once and never changed but for one
// word a record: its proof, made at first use.
//
// It is meant for a million keys, so a record holds what differs between keys,
// and what is usually the same for many is shared in a profile. The maps hold
// positions rather than pointers, which spares the garbage collector the walk.
type index struct {
	records  []record
	byID     map[[seal.IDLen]byte]uint32
	byDigest map[[sha256.Size]byte]uint32
	denylist *authn.Denylist
}

// record is one key.
type record struct {
	sum [sha256.Size]byte
	// notBefore and notAfter are Unix nanoseconds, the second exclusive; end is
	// the reason from then on. A key that is off ended at the beginning of time.
	notBefore, notAfter int64
	created, released   int64
	end                 policy.Reason
	pepper              uint16 // 0 if the key is imported

	id, principal, name string
	profile             *profile
	proof               atomic.Pointer[authn.Proof]
}

// profile is what many keys have in common.
type profile struct {
	Method                     policy.Method
	Kind                       policy.Kind
	Tenant, Owner, Environment string
	Roles, Scopes, Permissions []string
	Metadata                   map[string]any
	Constraints                *policy.Constraints
}

const (
	never  = math.MaxInt64
	always = math.MinInt64
)

// newIndex builds an index of keys that a keys file has been checked for.
func newIndex(keys []Key, denylist *authn.Denylist, l *limits) (*index, error) {
	ix := emptyIndex(len(keys))
	shared := profiles{}
	for i := range keys {
		if err := ix.put(i, &keys[i], &shared, l); err != nil {
			return nil, err
		}
	}
	ix.denylist = denylist
	ix.link()
	return ix, nil
}

// emptyIndex returns an index with room for n keys. It becomes whole by put for
// each of them, which may happen at the same time, and by link after that.
func emptyIndex(n int) *index { return &index{records: make([]record, n)} }

func (ix *index) put(i int, k *Key, shared *profiles, l *limits) (err error) {
	r := &ix.records[i]
	r.fill(k, l.maxAge)
	r.profile, err = shared.of(k)
	return err
}

// link makes the records findable.
func (ix *index) link() {
	imported := 0
	for i := range ix.records {
		if ix.records[i].pepper == 0 {
			imported++
		}
	}
	ix.byID = make(map[[seal.IDLen]byte]uint32, len(ix.records)-imported)
	ix.byDigest = make(map[[sha256.Size]byte]uint32, imported)
	for i := range ix.records {
		if r := &ix.records[i]; r.pepper == 0 {
			ix.byDigest[r.sum] = uint32(i)
		} else {
			ix.byID[idOf(r.id)] = uint32(i)
		}
	}
}

// fill copies what differs between keys.
func (r *record) fill(k *Key, maxAge time.Duration) {
	r.sum, r.pepper = k.Digest.Sum(), k.Digest.Pepper()
	r.id, r.principal, r.name = k.ID, k.Principal.ID, k.Name
	r.created, r.notBefore = nanos(k.CreatedAt, always), nanos(k.NotBefore, always)
	r.released = nanos(k.ReleasedAt, always)
	r.notAfter = never
	end := func(at int64, reason policy.Reason) {
		if at < r.notAfter {
			r.notAfter, r.end = at, reason
		}
	}
	// Of several ends at the same instant the first in this order is told.
	if k.Revoked != nil {
		end(nanos(k.Revoked.At, always), policy.ReasonRevoked)
	}
	if k.Disabled {
		end(always, policy.ReasonDisabled)
	}
	if k.Rotated != nil {
		end(nanos(k.Rotated.At, always), policy.ReasonRotated)
	}
	end(nanos(k.ExpiresAt, never), policy.ReasonExpired)
	if k.ExpiresAt.IsZero() && !k.CreatedAt.IsZero() {
		end(nanos(k.CreatedAt.Add(k.maxAge(maxAge)), never), policy.ReasonExpired)
	}
}

func nanos(t time.Time, unset int64) int64 {
	if t.IsZero() {
		return unset
	}
	return t.UnixNano()
}

// instant is the way back; both ends of time are the zero time.
func instant(ns int64) time.Time {
	if ns == never || ns == always {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// profiles finds equal profiles by a text that tells any two different ones
// apart.
type profiles struct {
	known map[string]*profile
	text  []byte
}

func (all *profiles) of(k *Key) (*profile, error) {
	p := profile{
		Method: policy.MethodAPIKey, Kind: policy.KindService,
		Tenant: k.Principal.Tenant, Owner: k.Owner, Environment: k.Environment,
		Roles: k.Principal.Roles, Scopes: k.Principal.Scopes, Permissions: k.Principal.Permissions,
		Metadata: k.Principal.Metadata, Constraints: k.Constraints,
	}
	if k.Kind == seal.KindPAT {
		p.Method, p.Kind = policy.MethodPAT, policy.KindUser
	}
	if k.Principal.Kind != "" {
		p.Kind = k.Principal.Kind
	}
	var err error
	if all.text, err = p.appendText(all.text[:0]); err != nil {
		return nil, err
	}
	if known := all.known[string(all.text)]; known != nil {
		return known, nil
	}
	if all.known == nil {
		all.known = map[string]*profile{}
	}
	fresh := new(profile)
	*fresh = p
	all.known[string(all.text)] = fresh
	return fresh, nil
}

// appendText appends everything in the profile: texts with their lengths, lists
// with the number of their items, and what few keys have in JSON.
func (p *profile) appendText(b []byte) ([]byte, error) {
	for _, text := range [...]string{string(p.Method), string(p.Kind), p.Tenant, p.Owner, p.Environment} {
		b = appendCounted(b, text)
	}
	for _, list := range [...][]string{p.Roles, p.Scopes, p.Permissions} {
		if list == nil {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(list))+1)
		for _, text := range list {
			b = appendCounted(b, text)
		}
	}
	if p.Metadata == nil && p.Constraints == nil {
		return b, nil
	}
	rest, err := json.Marshal([]any{p.Metadata, p.Constraints})
	return append(b, rest...), err
}

func appendCounted(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// ByID implements authn.Index.
func (ix *index) ByID(id string) authn.Sealed {
	if i, ok := ix.byID[idOf(id)]; ok {
		return &ix.records[i]
	}
	return nil
}

// ByDigest implements authn.Index.
func (ix *index) ByDigest(sum [sha256.Size]byte) authn.Sealed {
	if i, ok := ix.byDigest[sum]; ok {
		return &ix.records[i]
	}
	return nil
}

func idOf(id string) (key [seal.IDLen]byte) {
	copy(key[:], id)
	return key
}

// find returns the record with the id, for operators; it may walk all of them.
func (ix *index) find(id string) *record {
	if i, ok := ix.byID[idOf(id)]; ok && ix.records[i].id == id {
		return &ix.records[i]
	}
	for i := range ix.records {
		if ix.records[i].id == id {
			return &ix.records[i]
		}
	}
	return nil
}

// Seal implements authn.Sealed.
func (r *record) Seal() (*[sha256.Size]byte, uint16) { return &r.sum, r.pepper }

// Open implements authn.Sealed.
func (r *record) Open(now time.Time) (*authn.Proof, error) {
	if reason := r.status(now.UnixNano()); reason != policy.ReasonAllowed {
		return nil, authn.Refuse(reason, "key "+r.id+" is proven, but: "+reason.String())
	}
	return r.shared(), nil
}

// status says why a key that was proven does not count now.
func (r *record) status(now int64) policy.Reason {
	switch {
	case now >= r.notAfter:
		return r.end
	case now < r.notBefore:
		return policy.ReasonNotYetValid
	}
	return policy.ReasonAllowed
}

// shared returns the proof of the key, made at first use and the same ever after.
func (r *record) shared() *authn.Proof {
	if p := r.proof.Load(); p != nil {
		return p
	}
	r.proof.CompareAndSwap(nil, r.newProof())
	return r.proof.Load()
}

func (r *record) newProof() *authn.Proof {
	created, ends := instant(r.created), instant(r.notAfter)
	return &authn.Proof{
		Principal: &policy.Principal{
			ID: r.principal, Kind: r.profile.Kind, Tenant: r.profile.Tenant,
			Roles: r.profile.Roles, Scopes: r.profile.Scopes, Permissions: r.profile.Permissions,
			Claims: r.claims(), Metadata: r.profile.Metadata,
			Method: r.profile.Method, Assurance: assurance,
			CredentialID: r.id, Issuer: seal.Issuer,
			IssuedAt: created, ExpiresAt: ends,
		},
		Constraints: r.profile.Constraints,
		NotAfter:    ends,
		Subject: authn.Subject{
			TokenID: r.id, Issuer: seal.Issuer, ID: r.principal, Tenant: r.profile.Tenant,
			IssuedAt: created,
		},
		State: policy.StateMirror,
	}
}

// claims is what the keys file says about the key rather than its principal.
func (r *record) claims() map[string]any {
	var m map[string]any
	for _, c := range [...]struct{ name, value string }{
		{"name", r.name}, {"owner", r.profile.Owner}, {"environment", r.profile.Environment},
	} {
		if c.value == "" {
			continue
		}
		if m == nil {
			m = map[string]any{}
		}
		m[c.name] = c.value
	}
	return m
}
