package budget

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/seal"
)

// A receipt says what a request has reserved, so that any replica can settle it without
// having heard of it:
//
//	version, pepper's version, holder, number, expiry, items, MAC
//	item: account's key, lease, unit, amount, prices
//
// Numbers are varints; the MAC is HMAC-SHA-256 with a key derived from the pepper, cut to
// 128 bits (RFC 2104 section 5). All of it is in base64url. It holds no secret, and nobody
// needs to read it.

const (
	receiptVersion = 1
	receiptPurpose = "postern budget receipt"
	macLength      = 16
	holderLength   = 8
	// maxReceipt is longer than any receipt.
	maxReceipt = 8 << 10
	maxItems   = maxBudgets + 1 + maxShared
	// maxShared is of how many budgets of other tokens a token can have a part.
	maxShared = 4
)

// receipts makes and reads receipts.
type receipts struct {
	holder  [holderLength]byte
	peppers *seal.Peppers
	own     [sha256.Size]byte // where there is no pepper
	keys    map[uint16]receiptKey
	current uint16
	count   atomic.Uint64
}

// receiptKey holds the padded keys of an HMAC (RFC 2104 section 2).
type receiptKey struct{ inner, outer [sha256.BlockSize]byte }

func newReceipts(holder [holderLength]byte, peppers *seal.Peppers) *receipts {
	r := &receipts{holder: holder, peppers: peppers, current: peppers.Current()}
	_, _ = rand.Read(r.own[:]) // never fails: it ends the process instead
	r.keys = map[uint16]receiptKey{}
	if key, ok := r.key(r.current); ok {
		r.keys[r.current] = key
	}
	return r
}

// key derives the key of a version.
func (r *receipts) key(version uint16) (receiptKey, bool) {
	if key, ok := r.keys[version]; ok {
		return key, true
	}
	secret, ok := r.own, version == 0
	if version != 0 {
		secret, ok = r.peppers.Derive(version, receiptPurpose)
	}
	var k receiptKey
	copy(k.inner[:], secret[:])
	copy(k.outer[:], secret[:])
	for i := range k.inner {
		k.inner[i] ^= 0x36
		k.outer[i] ^= 0x5c
	}
	return k, ok
}

// mac writes the MAC of what follows the first block of buf, which becomes the key.
func (k *receiptKey) mac(buf []byte) (mac [macLength]byte) {
	copy(buf, k.inner[:])
	inner := sha256.Sum256(buf)
	var outer [sha256.BlockSize + sha256.Size]byte
	copy(outer[:], k.outer[:])
	copy(outer[sha256.BlockSize:], inner[:])
	sum := sha256.Sum256(outer[:])
	copy(mac[:], sum[:])
	return mac
}

// The units that can be reserved, as receipts have them.
const (
	receiptTokens = 1
	receiptMicros = 2
)

// issue returns the receipt for what was taken, and until when it can be settled; empty if
// there is nothing to settle.
func (r *receipts) issue(t *taken, now time.Time) (string, time.Time) {
	n, life := 0, maxReserve
	for i := range t.takings {
		if k := &t.takings[i]; k.reserves() {
			n++
			life = min(life, k.rule.ReserveFor)
		}
	}
	if n == 0 {
		return "", time.Time{}
	}
	expires := now.Add(life).Truncate(time.Second)
	var small [sha256.BlockSize + 384]byte
	b := append(small[:sha256.BlockSize], receiptVersion)
	b = binary.BigEndian.AppendUint16(b, r.current)
	b = append(b, r.holder[:]...)
	b = binary.AppendUvarint(b, r.count.Add(1))
	b = binary.AppendUvarint(b, uint64(max(0, expires.Unix())))
	b = binary.AppendUvarint(b, uint64(n))
	for i := range t.takings {
		if k := &t.takings[i]; k.reserves() {
			b = k.append(b)
		}
	}
	key := r.keys[r.current]
	mac := key.mac(b)
	b = append(b, mac[:]...)
	var text [512]byte
	return string(base64.RawURLEncoding.AppendEncode(text[:0], b[sha256.BlockSize:])), expires
}

// reserves reports whether there is something to settle.
func (k *taking) reserves() bool { return !k.over && !k.rule.final() }

func (k *taking) append(b []byte) []byte {
	b = append(b, k.account.key[:]...)
	b = binary.AppendUvarint(b, uint64(k.lease.seq))
	unit := uint64(receiptTokens)
	if k.rule.Unit == UnitMicros {
		unit = receiptMicros
	}
	b = binary.AppendUvarint(b, unit)
	b = binary.AppendUvarint(b, uint64(k.amount))
	b = binary.AppendUvarint(b, uint64(k.price.Input))
	return binary.AppendUvarint(b, uint64(k.price.Output))
}

// reservation is what a receipt says.
type reservation struct {
	id      string
	holder  string
	expires time.Time
	items   []reserved
}

type reserved struct {
	account string
	lease   int64
	unit    Unit
	amount  int64
	price   Price
}

// read reads a receipt that this installation made.
func (r *receipts) read(text string) (v reservation, err error) {
	if len(text) > maxReceipt {
		return v, ErrReceipt
	}
	b := make([]byte, sha256.BlockSize, sha256.BlockSize+len(text))
	b, err = base64.RawURLEncoding.Strict().AppendDecode(b, []byte(text))
	if err != nil || len(b) < sha256.BlockSize+3+macLength {
		return v, ErrReceipt
	}
	body := b[:len(b)-macLength]
	head := body[sha256.BlockSize:]
	key, ok := r.key(binary.BigEndian.Uint16(head[1:]))
	if !ok || head[0] != receiptVersion {
		return v, ErrReceipt
	}
	if mac := key.mac(body); !hmac.Equal(mac[:], b[len(b)-macLength:]) {
		return v, ErrReceipt
	}
	return parseReservation(head[3:])
}

// parseReservation reads what stands between the pepper's version and the MAC.
func parseReservation(b []byte) (v reservation, err error) {
	c := cursor{b: b}
	holder := c.bytes(holderLength)
	number := c.number()
	v.expires = time.Unix(c.number(), 0).UTC()
	n := c.number()
	if c.bad || n < 1 || n > maxItems {
		return v, ErrReceipt
	}
	v.holder = encode(holder)
	v.id = v.holder + "." + strconv.FormatInt(number, 36)
	for range n {
		item := reserved{account: encode(c.bytes(16)), lease: c.number(), unit: UnitTokens}
		if unit := c.number(); unit == receiptMicros {
			item.unit = UnitMicros
		}
		item.amount = c.number()
		item.price = Price{Input: c.number(), Output: c.number()}
		c.bad = c.bad || item.amount > MaxAmount || item.price.Input > maxPrice || item.price.Output > maxPrice
		v.items = append(v.items, item)
	}
	if c.bad || len(c.b) > 0 {
		return v, ErrReceipt
	}
	return v, nil
}

// cursor reads from the front of bytes. What is not there is zero, and bad.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) bytes(n int) []byte {
	if len(c.b) < n {
		c.bad, c.b = true, nil
		return make([]byte, n)
	}
	head := c.b[:n]
	c.b = c.b[n:]
	return head
}

// number reads a number that is not negative.
func (c *cursor) number() int64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > 1<<62 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return int64(v)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
