package table

import (
	"context"
	"database/sql"

	"github.com/postern-auth/postern/server/store"
)

// Changes implements store.Store.
func (s *Store) Changes(ctx context.Context, after int64, limit int) (b store.Batch, err error) {
	if limit < 1 {
		limit = store.MaxPage
	}
	err = s.snapshot(ctx, func(r reader) error {
		feed, err := r.feed("")
		if err != nil {
			return err
		}
		from, err := feed.Resume(after)
		if err != nil {
			return err
		}
		upTo := feed.Head
		if from < feed.Head {
			if upTo, err = r.cut(from, feed.Head, limit); err != nil {
				return err
			}
			expected := 0 // who polls finds few, and who loads about as many as fit
			if upTo < feed.Head {
				expected = limit
			}
			if b.Records, err = r.changes(from, upTo, expected); err != nil {
				return err
			}
		}
		b.Epoch, b.Next, b.Complete = feed.Epoch, feed.Next(upTo), upTo == feed.Head
		return nil
	})
	return b, err
}

// cut returns the number up to which whole transactions are about limit records,
// tombstones included. It asks no more than the index knows.
func (r reader) cut(from, head int64, limit int) (upTo int64, err error) {
	upTo = head
	err = r.query(func(rows *sql.Rows) error { return rows.Scan(&upTo) },
		`SELECT version FROM records WHERE version > $1 ORDER BY version LIMIT 1 OFFSET $2`, from, limit-1)
	return upTo, err
}

// changes returns what changed over one number and up to another. Those who load
// ask for all there is, so what this costs a record is what a start costs.
func (r reader) changes(from, upTo int64, expected int) (found []store.Record, err error) {
	var (
		bodies  shelf
		rec     store.Record // all here, so that no row allocates them anew
		kind    string
		expires int64
		body    sql.RawBytes // the driver's, until the next row
	)
	columns := []any{&kind, &rec.ID, &rec.Tenant, &rec.Owner, &rec.Digest, &expires, &body, &rec.Version, &rec.Deleted}
	err = r.query(func(rows *sql.Rows) error {
		if err := rows.Scan(columns...); err != nil {
			return r.s.fault(r.ctx, "read", err)
		}
		rec.Kind, rec.ExpiresAt, rec.Body = store.Kind(kind), moment(expires), bodies.keep(body)
		if found == nil {
			found = make([]store.Record, 0, expected)
		}
		found = append(found, rec)
		return nil
	}, `SELECT kind, id, tenant, owner, digest, expires_at, body, version, deleted FROM records
		WHERE version > $1 AND version <= $2 AND NOT (deleted AND $1 = 0) ORDER BY version`, from, upTo)
	return found, err
}

// shelf keeps copies of bodies, many in one allocation. The first one is small,
// for those who find little.
type shelf struct{ free []byte }

const (
	smallShelf = 1 << 10
	largeShelf = 64 << 10
)

func (s *shelf) keep(body []byte) []byte {
	if body == nil {
		return nil
	}
	if len(body) > cap(s.free)-len(s.free) {
		size := largeShelf
		if s.free == nil {
			size = smallShelf
		}
		s.free = make([]byte, 0, max(size, len(body)))
	}
	start := len(s.free)
	s.free = append(s.free, body...)
	return s.free[start:len(s.free):len(s.free)]
}
