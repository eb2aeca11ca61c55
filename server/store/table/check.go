package table

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/postern-auth/postern/server/store"
)

// maxFaults is how many faults a report lists.
const maxFaults = 100

// Check implements store.Store.
func (s *Store) Check(ctx context.Context) (store.Report, error) {
	report := store.Report{Schema: Schema(), Records: make(map[store.Kind]int)}
	err := s.snapshot(ctx, func(r reader) error {
		if err := s.dialect.Describe(ctx, r.tx, &report); err != nil {
			return s.fault(ctx, "check", err)
		}
		feed, err := r.feed("")
		if err != nil {
			return err
		}
		report.Epoch, report.Head, report.Audit = feed.Epoch, feed.Head, feed.Audit
		if feed.Head < 0 || feed.Floor > feed.Head {
			add(&report, "the feed ends at %d and begins at %d", feed.Head, feed.Floor)
		}
		return errors.Join(checkRecords(r, feed, &report), checkAudit(r, feed, &report), checkLedger(r, &report))
	})
	if errors.Is(err, store.ErrCorrupt) { // that is a finding
		add(&report, "%v", err)
		err = nil
	}
	return report, err
}

func checkRecords(r reader, feed store.Feed, report *store.Report) error {
	return r.query(func(rows *sql.Rows) error {
		var kind store.Kind
		var id string
		var body []byte
		var version int64
		var deleted bool
		if err := rows.Scan(&kind, &id, &body, &version, &deleted); err != nil {
			return err
		}
		if !deleted {
			report.Records[kind]++
		}
		switch {
		case version < 1 || version > feed.Head:
			add(report, "%s %s: its version is %d, the feed ends at %d", kind, id, version, feed.Head)
		case deleted && len(body) > 0:
			add(report, "%s %s: it is deleted and has content", kind, id)
		case !deleted && !json.Valid(body):
			add(report, "%s %s: its content is not JSON", kind, id)
		}
		return nil
	}, `SELECT kind, id, body, version, deleted FROM records ORDER BY kind, id`)
}

func checkAudit(r reader, feed store.Feed, report *store.Report) error {
	return r.query(func(rows *sql.Rows) error {
		var n, first, last int64
		err := rows.Scan(&n, &first, &last)
		if n != feed.Audit || last != n || n > 0 && first != 1 {
			add(report, "the audit log has %d entries from %d to %d, and should have %d", n, first, last, feed.Audit)
		}
		return err
	}, `SELECT count(*), coalesce(min(seq), 0), coalesce(max(seq), 0) FROM audit`)
}

func checkLedger(r reader, report *store.Report) error {
	p := &posting{reader: r, began: true}
	return p.accounts(func(a store.Account) {
		if err := errors.Join(a.Balanced(), a.Whole()); err != nil {
			add(report, "%v", err)
		}
	}, `TRUE ORDER BY key`)
}

func add(report *store.Report, format string, args ...any) {
	if len(report.Faults) < maxFaults {
		report.Faults = append(report.Faults, fmt.Sprintf(format, args...))
	}
}
