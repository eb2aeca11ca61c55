package check

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"strings"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
)

// answer completes the decision: status, message, headers and challenges.
func (c *Checker) answer(x *exchange) {
	d := &x.decision
	d.Status, d.Message = d.Reason.Status(), cmp.Or(x.message, lacks(d), d.Reason.Message())
	if v := d.Verdict; v != nil {
		d.Client = v.ClientHeaders
		if !d.Allowed && d.Phase == policy.PhaseDecide {
			if v.Status != 0 {
				d.Status = v.Status
			}
			if v.Message != "" {
				d.Message = v.Message
			}
		}
	}
	c.tellLimits(d)
	tellAction(d)
	if d.Allowed {
		c.identity.apply(c, x)
		return
	}
	c.challenge(x)
}

// FieldValue makes a text safe for a header field: visible ASCII stays, every
// other byte, "%" and what else is listed is percent-encoded, so that different
// texts stay different and none can end the field.
func FieldValue(s, except string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return escaped(r, except) }) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if escaped(rune(s[i]), except) {
			b.WriteByte('%')
			b.WriteByte("0123456789ABCDEF"[s[i]>>4])
			b.WriteByte("0123456789ABCDEF"[s[i]&15])
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func escaped(r rune, except string) bool {
	return r <= ' ' || r >= 0x7f || r == '%' || strings.ContainsRune(except, r)
}

// ids makes decision ids: a random prefix of this process and a counter. They
// name decisions and prove nothing.
type ids struct {
	prefix [12]byte
	next64 atomic.Uint64
}

const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

func newIDs() *ids {
	var seed [8]byte
	_, _ = rand.Read(seed[:])
	g := &ids{}
	n := binary.BigEndian.Uint64(seed[:])
	for i := range g.prefix {
		g.prefix[i] = idAlphabet[n&31]
		n >>= 5
	}
	return g
}

func (g *ids) next() string {
	n := g.next64.Add(1)
	var b [19]byte
	copy(b[:], g.prefix[:])
	for i := len(b) - 1; i >= len(g.prefix); i-- {
		b[i] = idAlphabet[n&31]
		n >>= 5
	}
	return string(b[:])
}
