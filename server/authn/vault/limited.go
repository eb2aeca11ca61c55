package vault

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// errLimitedSelf refuses a token of limited uses that was seen before.
var errLimitedSelf = authn.Refuse(policy.ReasonWrongTokenType, "a token of limited uses (num_uses): each look at itself would cost one")

// limited remembers tokens of limited uses, so that each costs its owner no more than the
// one use that it takes to find out. It holds keyed hashes. nil remembers nothing.
type limited struct {
	key [32]byte

	mu   sync.Mutex
	seen map[[32]byte]struct{}
}

// maxLimited bounds what is remembered; beyond it, any are forgotten.
const maxLimited = 10_000

func newLimited() *limited {
	l := &limited{seen: map[[32]byte]struct{}{}}
	_, _ = rand.Read(l.key[:]) // never fails: it ends the process instead
	return l
}

func (l *limited) hash(token string) [32]byte {
	return sha256.Sum256(append(l.key[:], token...))
}

func (l *limited) has(token string) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) == 0 {
		return false
	}
	_, seen := l.seen[l.hash(token)]
	return seen
}

func (l *limited) add(token string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for old := range l.seen {
		if len(l.seen) < maxLimited {
			break
		}
		delete(l.seen, old)
	}
	l.seen[l.hash(token)] = struct{}{}
}
