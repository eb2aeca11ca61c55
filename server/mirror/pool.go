package mirror

import (
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"weak"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// rights are what a principal has, or a credential lists. Many have the same, so
// equal ones are one value.
type rights struct {
	Roles, Scopes, Permissions []string
}

// profile is what many credentials have in common.
type profile struct {
	rights
	Type        store.CredentialType
	Environment string
	Metadata    map[string]any
	Constraints *policy.Constraints
	// Parent is the id of the credential with which it falls, Successor of the one
	// that took its place.
	Parent, Successor string
}

// person is what many principals have in common.
type person struct {
	rights
	Kind     policy.Kind
	Metadata map[string]any
}

// pool makes equal values one. It keeps none alive that nobody uses: a sweep
// forgets those that the garbage collector has taken.
type pool[V any] struct {
	mu    sync.Mutex
	seed  maphash.Seed
	known map[uint64][]weak.Pointer[pooled[V]]
	count int
	sweep int // the count at which to sweep
}

// pooled is a value with the text that tells it from any other.
type pooled[V any] struct {
	value V
	text  string
}

func newPool[V any]() *pool[V] {
	return &pool[V]{seed: maphash.MakeSeed(), known: map[uint64][]weak.Pointer[pooled[V]]{}, sweep: 1024}
}

// poolable is a value that a pool can hold.
type poolable[V any] interface {
	*V
	// appendText appends what tells the value from any other.
	appendText([]byte) ([]byte, error)
	// detach has the value share no text or list with anything else.
	detach()
}

// intern returns the value of the pool that is equal to the given one, which it does
// not keep, and the scratch for the next call.
func intern[V any, P poolable[V]](p *pool[V], v P, scratch []byte) (*pooled[V], []byte, error) {
	text, err := v.appendText(scratch[:0])
	if err != nil {
		return nil, text, err
	}
	h := maphash.Bytes(p.seed, text)
	p.mu.Lock()
	defer p.mu.Unlock()
	if same := p.find(h, text); same != nil {
		return same, text, nil
	}
	v.detach()
	return p.add(h, &pooled[V]{value: *v, text: string(text)}), text, nil
}

func (p *pool[V]) find(h uint64, text []byte) *pooled[V] {
	for _, w := range p.known[h] {
		if same := w.Value(); same != nil && same.text == string(text) {
			return same
		}
	}
	return nil
}

func (p *pool[V]) add(h uint64, fresh *pooled[V]) *pooled[V] {
	p.known[h] = append(p.known[h], weak.Make(fresh))
	if p.count++; p.count >= p.sweep {
		p.forget()
	}
	return fresh
}

func (p *pool[V]) forget() {
	p.count = 0
	for h, all := range p.known {
		kept := all[:0]
		for _, w := range all {
			if w.Value() != nil {
				kept = append(kept, w)
			}
		}
		p.count += len(kept)
		if p.known[h] = kept; len(kept) == 0 {
			delete(p.known, h)
		}
	}
	p.sweep = max(1024, 2*p.count)
}

// appendText appends everything in the profile: texts with their lengths, lists
// with the number of their items, and what few have in JSON.
func (p *profile) appendText(b []byte) ([]byte, error) {
	b = p.rights.appendText(b)
	for _, text := range [...]string{string(p.Type), p.Environment, p.Parent, p.Successor} {
		b = appendCounted(b, text)
	}
	if p.Metadata == nil && p.Constraints == nil {
		return b, nil
	}
	rest, err := json.Marshal([]any{p.Metadata, p.Constraints})
	return append(b, rest...), err
}

func (p *profile) detach() {
	p.rights.detach()
	for _, text := range [...]*string{(*string)(&p.Type), &p.Environment, &p.Parent, &p.Successor} {
		*text = strings.Clone(*text)
	}
}

func (p *person) appendText(b []byte) ([]byte, error) {
	b = appendCounted(p.rights.appendText(b), string(p.Kind))
	if p.Metadata == nil {
		return b, nil
	}
	rest, err := json.Marshal(p.Metadata)
	return append(b, rest...), err
}

func (p *person) detach() {
	p.rights.detach()
	p.Kind = policy.Kind(strings.Clone(string(p.Kind)))
}

func (r *rights) appendText(b []byte) []byte {
	return appendLists(b, r.Roles, r.Scopes, r.Permissions)
}

func appendLists(b []byte, lists ...[]string) []byte {
	for _, list := range lists {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, text := range list {
			b = appendCounted(b, text)
		}
	}
	return b
}

func (r *rights) detach() { detachLists(&r.Roles, &r.Scopes, &r.Permissions) }

func detachLists(lists ...*[]string) {
	for _, list := range lists {
		if len(*list) == 0 {
			*list = nil
			continue
		}
		*list = slices.Clone(*list)
		for i, text := range *list {
			(*list)[i] = strings.Clone(text)
		}
	}
}

func appendCounted(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}
