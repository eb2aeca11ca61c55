package registry

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// refusals keeps those who are refused again and again from filling the disk, and from
// keeping writers waiting: each entry is a transaction. In each minute the log takes so
// many entries of one kind, of one actor and in all; of what comes beyond, one entry
// says how many there were. It is written by whoever is refused next after the minute
// is over, or by Maintain. It is in memory: a replica that stops without FlushAudit
// forgets the last count.
type refusals struct {
	mu    sync.Mutex
	began time.Time
	// counts are the entries of this minute, by what they have in common.
	counts map[string]int
	// held is what was not written, by actor, action and tenant.
	held map[string]*held
}

// held stands for many refusals.
type held struct {
	last store.AuditEntry
	n    int
}

// What the log takes in a minute.
const (
	refusalWindow   = time.Minute
	sameRefusals    = 10  // of one actor, action and target
	actorRefusals   = 100 // of one actor
	allRefusals     = 600
	maxHeldRefusals = 256 // kinds of what is beyond; further ones are one kind
)

func newRefusals() *refusals {
	r := &refusals{}
	r.reset(time.Time{})
	return r
}

func (r *refusals) reset(now time.Time) {
	r.began, r.counts, r.held = now, map[string]int{}, map[string]*held{}
}

// take returns what is to be written now: the entry, unless there were too many, and
// what was held back in the minute before.
func (r *refusals) take(e store.AuditEntry, now time.Time) []store.AuditEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	due := r.due(now)
	one, kind := strings.Join([]string{e.Actor, e.Action, e.Target}, "\x00"), strings.Join([]string{e.Actor, e.Action, "", e.Tenant}, "\x00")
	actor := e.Actor + "\x00"
	if r.counts[one] < sameRefusals && r.counts[actor] < actorRefusals && r.counts[""] < allRefusals {
		r.counts[one]++
		r.counts[actor]++
		r.counts[""]++
		return append(due, e)
	}
	if r.held[kind] == nil && len(r.held) >= maxHeldRefusals {
		kind, e = "", store.AuditEntry{Action: e.Action, Denied: true, Reason: "too many refusals to tell apart"}
	}
	h := r.held[kind]
	if h == nil {
		h = &held{}
		r.held[kind] = h
	}
	h.last = e
	h.n++
	return due
}

// late is due for who has nothing to add, flush whatever the time is.
func (r *refusals) late(now time.Time) []store.AuditEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.due(now)
}

func (r *refusals) flush(now time.Time) []store.AuditEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drain(now)
}

// due returns what was held back, if the minute is over, and begins a new one.
func (r *refusals) due(now time.Time) []store.AuditEntry {
	if since := now.Sub(r.began); since >= 0 && since < refusalWindow {
		return nil
	}
	return r.drain(now)
}

func (r *refusals) drain(now time.Time) (all []store.AuditEntry) {
	for _, h := range r.held {
		e := h.last
		e.Target, e.RequestID = "", ""
		e.Detail = map[string]string{"refusals": strconv.Itoa(h.n), "since": r.began.Format(time.RFC3339)}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b store.AuditEntry) int {
		return strings.Compare(a.Actor+"\x00"+a.Action+"\x00"+a.Tenant, b.Actor+"\x00"+b.Action+"\x00"+b.Tenant)
	})
	r.reset(now)
	return all
}

// noteRefusal notes in the audit log that something was refused.
func (r *Registry) noteRefusal(ctx context.Context, e store.AuditEntry) error {
	return r.append(ctx, r.refusals.take(e, r.now()))
}

// FlushAudit writes what the audit log still has to be told of refusals, before the
// process ends.
func (r *Registry) FlushAudit(ctx context.Context) error {
	if err := r.append(ctx, r.refusals.flush(r.now())); err != nil {
		return asError(err)
	}
	return nil
}

// append writes entries of their own.
func (r *Registry) append(ctx context.Context, entries []store.AuditEntry) error {
	if len(entries) == 0 {
		return nil
	}
	// Who was refused does not get rid of the entry by hanging up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	_, err := r.store.Update(ctx, func(tx store.Tx) error {
		for _, e := range entries {
			if err := tx.Note(e); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

const auditTimeout = 5 * time.Second
