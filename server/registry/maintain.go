package registry

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// Maintained says what a round of Maintain did.
type Maintained struct {
	// Disabled counts credentials that were not used for as long as their tenant
	// allows (K-09), Purged records that the store removed for good.
	Disabled, Purged int
}

// keepDeleted is how long tombstones and what has expired stay: a replica that was
// away for less need not read all anew.
const keepDeleted = 7 * day

// Maintain does what time demands: it disables what was not used, and lets go of
// what has long ended. Call it every few minutes, on any replica.
func (r *Registry) Maintain(ctx context.Context) (Maintained, error) {
	var done Maintained
	var errs []error
	stale, err := r.unused(ctx)
	if err != nil {
		errs = append(errs, asError(err))
	}
	for part := range slices.Chunk(stale, 100) { // so that other writers get their turn
		n, err := r.disableUnused(ctx, part)
		done.Disabled += n
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := r.append(ctx, r.refusals.late(r.now())); err != nil {
		errs = append(errs, asError(err))
	}
	if done.Purged, err = r.store.Purge(ctx, r.now().Add(-keepDeleted)); err != nil {
		errs = append(errs, asError(err))
	}
	return done, errors.Join(errs...)
}

// idle is a credential that was not used for longer than is allowed.
type idle struct {
	id      string
	version int64
	allowed time.Duration
}

// unused finds the credentials that were neither used nor changed for so long.
func (r *Registry) unused(ctx context.Context) ([]idle, error) {
	var tenants []*store.Tenant
	err := r.pages(ctx, func(from store.Reader, after string) (string, error) {
		some, err := store.List[store.Tenant](from, store.Query{After: after})
		tenants = append(tenants, some...)
		return lastID(some), err
	})
	if err != nil {
		return nil, err
	}
	rules := map[string]time.Duration{"": r.cfg.UnusedFor}
	var queries []store.Query
	for _, t := range tenants {
		if d := time.Duration(r.cfg.fill(t.Rules).UnusedFor); d > 0 {
			rules[t.ID] = d
			queries = append(queries, store.Query{Tenant: t.ID})
		}
	}
	if r.cfg.UnusedFor > 0 {
		queries = []store.Query{{}} // all, those of the installation too
	}
	var found []idle
	for _, q := range queries {
		some, err := r.unusedOf(ctx, q, rules)
		if err != nil {
			return found, err
		}
		found = append(found, some...)
	}
	return found, nil
}

func (r *Registry) unusedOf(ctx context.Context, q store.Query, rules map[string]time.Duration) ([]idle, error) {
	now := r.now()
	var found []idle
	err := r.pages(ctx, func(from store.Reader, after string) (string, error) {
		q.After = after
		some, err := store.List[store.Credential](from, q)
		for _, c := range some {
			allowed := rules[c.Tenant]
			if state := StateOf(c, now); allowed > 0 && state == Active && c.UpdatedAt.Before(now.Add(-allowed)) {
				found = append(found, idle{c.ID, c.Version, allowed})
			}
		}
		return lastID(some), err
	})
	if err != nil {
		return nil, err
	}
	stale := found[:0]
	for _, c := range found {
		last, err := r.lastUsed(ctx, c.id)
		if err != nil {
			return nil, err
		}
		if last.Before(now.Add(-c.allowed)) {
			stale = append(stale, c)
		}
	}
	return stale, nil
}

// disableUnused disables credentials, unless something happened to them meanwhile.
func (r *Registry) disableUnused(ctx context.Context, stale []idle) (int, error) {
	n := 0
	_, err := r.change(ctx, Call{Actor: Actor{ID: system}}, action{"maintenance.unused", never}, nil, func(o *operation) error {
		n = 0
		for _, s := range stale {
			c, err := store.Get[store.Credential](o.tx, s.id)
			if errors.Is(err, store.ErrNotFound) || err == nil && c.Version != s.version {
				continue
			}
			if err != nil {
				return err
			}
			c.Disabled, c.UpdatedAt = o.ending("it was not used for "+s.allowed.String()), o.now
			o.target(store.KindCredential, c.ID, c.Tenant)
			o.entry.Reason = c.Disabled.Reason
			if err := o.tx.Note(o.note("credential.disable")); err != nil {
				return err
			}
			if err := o.put(c, "the id"); err != nil {
				return err
			}
			n++
		}
		o.entry = store.AuditEntry{}
		o.detail("disabled", strconv.Itoa(n))
		return nil
	}, nil)
	if err != nil {
		return 0, err
	}
	return n, nil
}

// pages reads page by page, each in a view of its own, so that no view lasts long.
func (r *Registry) pages(ctx context.Context, read func(from store.Reader, after string) (last string, err error)) error {
	after := ""
	for {
		err := r.store.View(ctx, func(from store.Reader) (err error) {
			after, err = read(from, after)
			return err
		})
		if err != nil || after == "" {
			return err
		}
	}
}

// lastID returns the id behind which a page goes on; empty at the end.
func lastID[T any, P store.DocumentOf[T]](page []*T) string {
	if len(page) < store.MaxPage {
		return ""
	}
	return P(page[len(page)-1]).Columns().ID
}
