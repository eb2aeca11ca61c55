package registry

import (
	"context"
	"strconv"

	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// SetLimit gives one of those who have a budget another limit than the configuration
// says; 0 goes back to that. Who may do this, the caller has found out: what is limited
// must not be able to lift its own limit. ID, By and SetAt are set here.
func (r *Registry) SetLimit(ctx context.Context, call Call, l store.Limit) (Change, error) {
	return r.change(ctx, call, action{"budget.limit", same}, l, func(o *operation) error {
		if l.Budget == "" || l.Subject == "" || l.Limit < 0 {
			return fail(InvalidField, "limit", "is of no budget, or is less than nothing")
		}
		if !o.actor.sees(l.Tenant) {
			return fail(NotFound, "", "there is no such budget")
		}
		line := l
		line.ID, line.By, line.SetAt, line.Version = digestOf(l.Budget, l.Subject), seal.Scrub(o.actor.Name()), o.now, 0
		o.target(store.KindLimit, line.Budget, line.Tenant)
		o.detail("subject", line.Subject)
		o.detail("limit", strconv.FormatInt(line.Limit, 10))
		o.made = line.ID
		return o.put(&line, "the id")
	}, func(*operation, string) error { return nil })
}

// Limits returns all limits that were set, by what LimitKey says of them.
func (r *Registry) Limits(ctx context.Context) (map[string]int64, error) {
	all := map[string]int64{}
	err := r.store.View(ctx, func(from store.Reader) error {
		clear(all)
		q := store.Query{Kind: store.KindLimit, Limit: store.MaxPage}
		for {
			page, err := from.List(q)
			if err != nil {
				return err
			}
			for _, record := range page {
				l, err := store.Decode[store.Limit](record)
				if err != nil {
					return err
				}
				if l.Limit > 0 {
					all[LimitKey(l.Budget, l.Subject)] = l.Limit
				}
			}
			if len(page) < q.Limit {
				return nil
			}
			q.After = page[len(page)-1].ID
		}
	})
	return all, err
}

// LimitKey stands for a budget and who has it, in the words of the ledger. The name of a
// budget holds no space.
func LimitKey(budget, subject string) string { return budget + " " + subject }
