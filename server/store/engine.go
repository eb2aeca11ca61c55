package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// This file is for those who write engines: what all of them must do alike.

// Feed is the counter that a transaction holds until it ends, with what else there
// is only one of. An engine keeps it as one row.
type Feed struct {
	// Epoch names the store; see Batch.
	Epoch string
	// Head is the number of the last change, Audit that of the last audit entry.
	Head, Audit int64
	// Floor is the highest number of a tombstone that was purged. Who has seen less
	// may hold what was deleted.
	Floor int64
	// Purges counts how often Floor was raised.
	Purges int64
}

// A load from 0 by pages passes below the floor: it misses nothing, as long as no
// tombstone is purged while it lasts. So there the number to ask from next is
// negative and holds, above numberBits, the count of purges. 44 bits are enough
// for 10,000 changes a second over 55 years; the count is cut to purgeBits.
const (
	numberBits = 44
	purgeBits  = 18
)

func (f Feed) loading() int64 { return f.Purges & (1<<purgeBits - 1) << numberBits }

// Resume returns the number behind which a reader goes on who asks from after, or
// ErrPurged.
func (f Feed) Resume(after int64) (int64, error) {
	switch {
	case after == 0:
		return 0, nil
	case after < 0:
		if number := -after - f.loading(); 0 < number && number < f.Floor {
			return number, nil
		}
		return 0, ErrPurged
	case after < f.Floor, after > f.Head: // after > Head: the database has lost changes
		return 0, ErrPurged
	}
	return after, nil
}

// Next is the number to ask from after a batch that went up to a number.
func (f Feed) Next(upTo int64) int64 {
	if upTo < f.Floor {
		return -(f.loading() | upTo)
	}
	return upTo
}

// Normal returns a record as engines keep it, its body copied, or an error if not
// all of them could.
func Normal(r Record) (Record, error) {
	if r.Kind == "" || r.ID == "" || len(r.Body) == 0 {
		return r, errors.New("a record needs a kind, an id and a body")
	}
	for _, s := range []string{string(r.Kind), r.ID, r.Tenant, r.Owner, r.Digest} {
		if !Text(s) {
			return r, fmt.Errorf("%q is not text that can be stored: UTF-8 without NUL", s)
		}
	}
	r.Body = bytes.Clone(r.Body)
	r.ExpiresAt = Micro(r.ExpiresAt)
	r.Version, r.Deleted = 0, false
	return r, nil
}

// Tombstone is what stays of a record that was deleted; it may be purged from then
// on. Its digest is free again.
func (r Record) Tombstone(at time.Time) Record {
	return Record{
		Kind: r.Kind, ID: r.ID, Tenant: r.Tenant, Owner: r.Owner,
		ExpiresAt: Micro(at), Deleted: true,
	}
}

// Normal returns an audit entry as engines keep it. Nothing is refused here: what
// was tried with an impossible name must be seen as well.
func (e AuditEntry) Normal() AuditEntry {
	for _, s := range []*string{&e.Actor, &e.Credential, &e.Action, &e.Target, &e.Tenant, &e.Reason, &e.RequestID} {
		*s = clean(*s)
	}
	detail := e.Detail
	e.Detail = nil
	for k, v := range detail {
		if e.Detail == nil {
			e.Detail = make(map[string]string, len(detail))
		}
		e.Detail[clean(k)] = clean(v)
	}
	e.At = Micro(e.At)
	return e
}

// Normal returns a counter as engines keep it.
func (u Usage) Normal() Usage {
	for _, s := range []*string{&u.Credential, &u.Tenant, &u.Principal, &u.Day, &u.Route} {
		*s = clean(*s)
	}
	u.LastUsedAt = Micro(u.LastUsedAt)
	return u
}

// Text reports whether every engine can keep a string: UTF-8 without NUL.
func Text(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

func clean(s string) string {
	if Text(s) {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Micro cuts a time to the microseconds, in UTC, that are kept; zero stays zero.
func Micro(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

// Page is how many to return if limit was asked for.
func Page(limit int) int {
	if limit < 1 || limit > MaxPage {
		return MaxPage
	}
	return limit
}

// Hints tells listeners of the same process that something changed. The zero value
// is ready.
type Hints struct {
	mu     sync.Mutex
	next   chan struct{} // closed by the next hint
	closed bool
}

// Send gives a hint. Hints that come while a listener is busy are one to it.
func (h *Hints) Send() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next != nil && !h.closed {
		close(h.next)
		h.next = nil
	}
}

// Close ends all listeners.
func (h *Hints) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = make(chan struct{})
	}
	if !h.closed {
		h.closed = true
		close(h.next)
	}
}

// Listen is Store.Listen.
func (h *Hints) Listen(ctx context.Context, hint func()) error {
	for ctx.Err() == nil {
		next, closed := h.wait()
		if closed {
			return ErrClosed
		}
		hint() // after wait, so that nothing between two hints is missed
		select {
		case <-next:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (h *Hints) wait() (<-chan struct{}, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = make(chan struct{})
	}
	return h.next, h.closed
}
