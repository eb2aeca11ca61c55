package table

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// reader implements store.Reader over a transaction.
type reader struct {
	ctx context.Context
	s   *Store
	tx  *sql.Tx
}

// query runs a SELECT and scans its rows.
func (r reader) query(scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := r.tx.QueryContext(r.ctx, query, args...)
	if err != nil {
		return r.s.fault(r.ctx, "read", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return r.s.fault(r.ctx, "read", rows.Err())
}

// feed reads the feed's row, with what else is to be done with it.
func (r reader) feed(lock string) (f store.Feed, err error) {
	err = r.tx.QueryRowContext(r.ctx, "SELECT epoch, head, audit, floor, purges FROM feed"+lock).
		Scan(&f.Epoch, &f.Head, &f.Audit, &f.Floor, &f.Purges)
	if errors.Is(err, sql.ErrNoRows) {
		return f, fmt.Errorf("%w: the row of the feed is gone", store.ErrCorrupt)
	}
	return f, r.s.fault(r.ctx, "read the feed", err)
}

// Head implements store.Reader.
func (r reader) Head() (int64, error) {
	f, err := r.feed("")
	return f.Head, err
}

// records returns the records that fit a condition.
func (r reader) records(condition string, args ...any) (found []store.Record, err error) {
	err = r.query(func(rows *sql.Rows) error {
		var rec store.Record
		var expires int64
		err := rows.Scan(&rec.Kind, &rec.ID, &rec.Tenant, &rec.Owner, &rec.Digest, &expires, &rec.Body, &rec.Version, &rec.Deleted)
		rec.ExpiresAt = moment(expires)
		found = append(found, rec)
		return err
	}, `SELECT kind, id, tenant, owner, digest, expires_at, body, version, deleted FROM records WHERE `+condition, args...)
	return found, err
}

// one returns the only record that fits a condition.
func (r reader) one(condition string, args ...any) (store.Record, error) {
	found, err := r.records(condition, args...)
	if err != nil {
		return store.Record{}, err
	}
	if len(found) == 0 {
		return store.Record{}, store.ErrNotFound
	}
	return found[0], nil
}

// Get implements store.Reader.
func (r reader) Get(kind store.Kind, id string) (store.Record, error) {
	if !store.Text(string(kind)) || !store.Text(id) {
		return store.Record{}, store.ErrNotFound
	}
	return r.one(`kind = $1 AND id = $2 AND NOT deleted`, string(kind), id)
}

// ByDigest implements store.Reader.
func (r reader) ByDigest(digest string) (store.Record, error) {
	if digest == "" || !store.Text(digest) {
		return store.Record{}, store.ErrNotFound
	}
	return r.one(`digest = $1 AND digest <> ''`, digest)
}

// List implements store.Reader.
func (r reader) List(q store.Query) ([]store.Record, error) {
	var c conditions
	c.text(`kind = `, string(q.Kind))
	c.text(`tenant <> '' AND tenant = `, q.Tenant) // as the index says it
	c.text(`owner <> '' AND owner = `, q.Owner)
	c.text(`id > `, q.After)
	if c.never {
		return nil, nil
	}
	return r.records(c.sql()+` AND NOT deleted ORDER BY id`+c.limit(q.Limit), c.args...)
}

// Audit implements store.Store.
func (s *Store) Audit(ctx context.Context, q store.AuditQuery) (found []store.AuditEntry, err error) {
	var c conditions
	c.text(`tenant = `, q.Tenant)
	c.text(`actor = `, q.Actor)
	c.text(`action = `, q.Action)
	c.text(`target = `, q.Target)
	c.number(`at >= `, micros(q.From))
	c.number(`at < `, micros(q.To))
	c.number(`seq < `, q.Before)
	err = s.snapshot(ctx, func(r reader) error {
		if c.never {
			return nil
		}
		return r.query(func(rows *sql.Rows) error {
			var body []byte
			var e store.AuditEntry
			if err := rows.Scan(&e.Seq, &body); err != nil {
				return err
			}
			if err := json.Unmarshal(body, &e); err != nil {
				return fmt.Errorf("%w: audit entry %d: %w", store.ErrCorrupt, e.Seq, err)
			}
			found = append(found, e)
			return nil
		}, `SELECT seq, entry FROM audit WHERE `+c.sql()+` ORDER BY seq DESC`+c.limit(q.Limit), c.args...)
	})
	return found, err
}

// Usage implements store.Store.
func (s *Store) Usage(ctx context.Context, q store.UsageQuery) (found []store.Usage, err error) {
	var c conditions
	c.text(`credential = `, q.Credential)
	c.text(`tenant = `, q.Tenant)
	c.text(`principal = `, q.Principal)
	c.text(`day >= `, q.From)
	c.text(`day <= `, q.To)
	err = s.snapshot(ctx, func(r reader) error {
		if c.never {
			return nil
		}
		return r.query(func(rows *sql.Rows) error {
			var u store.Usage
			var last int64
			err := rows.Scan(&u.Credential, &u.Tenant, &u.Principal, &u.Day, &u.Route, &u.Allowed, &u.Denied, &last)
			u.LastUsedAt = moment(last)
			found = append(found, u)
			return err
		}, `SELECT credential, tenant, principal, day, route, allowed, denied, last_used_at FROM usage WHERE `+
			c.sql()+` ORDER BY credential, day DESC, route`+c.limit(q.Limit), c.args...)
	})
	return found, err
}

// conditions collects what a WHERE demands; empty values demand nothing.
type conditions struct {
	parts []string
	args  []any
	never bool // what is asked for cannot be stored
}

func (c *conditions) text(condition, value string) {
	c.never = c.never || !store.Text(value)
	if value != "" {
		c.add(condition, value)
	}
}

func (c *conditions) number(condition string, value int64) {
	if value != 0 {
		c.add(condition, value)
	}
}

func (c *conditions) add(condition string, value any) {
	c.args = append(c.args, value)
	c.parts = append(c.parts, fmt.Sprintf("%s$%d", condition, len(c.args)))
}

func (c *conditions) sql() string {
	if len(c.parts) == 0 {
		return "TRUE"
	}
	return strings.Join(c.parts, " AND ")
}

func (c *conditions) limit(n int) string { return fmt.Sprintf(" LIMIT %d", store.Page(n)) }

// micros and moment are how times are stored.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
