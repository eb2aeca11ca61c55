package dpop

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
)

// nonces are what a server hands out so that proofs cannot be made in advance (RFC 9449
// section 9). Nothing is kept of them: a nonce is a function of a key and of the clock,
//
//	base64url( HMAC-SHA-256( key, "postern dpop nonce" | length and number of the span ) [:16] )
//
// where a span is max_age long. Those of this span and of the one before count; that of
// the next one does too, because another replica's clock may be ahead. So a nonce is good
// for one to two spans, three at the very most.
type nonces struct {
	key  []byte
	span time.Duration
	// last are those of the span that was asked for last.
	last atomic.Pointer[spanNonces]
}

// spanNonces are the nonces of a span and its neighbours.
type spanNonces struct {
	span                    int64
	previous, current, next string
}

// maxSpans is how many spans one nonce is accepted in.
const maxSpans = 3

func newNonces(key policy.Secret, span time.Duration) *nonces {
	n := &nonces{key: []byte(key.Reveal()), span: span}
	if len(n.key) == 0 {
		n.key = make([]byte, sha256.Size)
		_, _ = rand.Read(n.key) // never fails: it ends the process instead
	}
	return n
}

// at returns the nonces of an instant.
func (n *nonces) at(now time.Time) *spanNonces {
	span := now.UnixNano() / int64(n.span)
	if s := n.last.Load(); s != nil && s.span == span {
		return s
	}
	s := &spanNonces{span, n.text(span - 1), n.text(span), n.text(span + 1)}
	n.last.Store(s)
	return s
}

func (n *nonces) text(span int64) string {
	h := hmac.New(sha256.New, n.key)
	h.Write([]byte("postern dpop nonce"))
	_ = binary.Write(h, binary.BigEndian, [2]int64{int64(n.span), span}) // a hash takes everything
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}
