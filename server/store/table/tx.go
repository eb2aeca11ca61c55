package table

import (
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// purgeSize is how many records one transaction purges.
const purgeSize = 1000

// tx implements store.Tx as one of a group.
type tx struct {
	*group
	job   *job
	feed  store.Feed // the feed if this is committed
	at    time.Time
	wrote bool
	notes []store.AuditEntry
	fault error // of the database: what follows is not to be trusted
}

// run calls the job's function, and completes what it did.
func (t *tx) run() error {
	if err := t.job.fn(t); err != nil {
		return err
	}
	if t.fault != nil { // fn overlooked it
		return t.fault
	}
	var told int64
	if t.wrote {
		t.feed.Head++
		told = t.feed.Head
	}
	for _, e := range t.notes {
		t.feed.Audit++
		e.Seq, e.Change, e.At = t.feed.Audit, told, t.at
		if err := t.writeNote(e.Normal()); err != nil {
			return err
		}
	}
	return nil
}

// check says whether it makes sense to go on.
func (t *tx) check() error {
	if t.fault != nil {
		return t.fault
	}
	return t.job.ctx.Err()
}

// kept keeps a fault in mind and returns it.
func (t *tx) kept(err error) error {
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.fault = err
	}
	return err
}

// Get implements store.Reader.
func (t *tx) Get(kind store.Kind, id string) (store.Record, error) {
	if err := t.check(); err != nil {
		return store.Record{}, err
	}
	r, err := t.reader.Get(kind, id)
	return r, t.kept(err)
}

// ByDigest implements store.Reader.
func (t *tx) ByDigest(digest string) (store.Record, error) {
	if err := t.check(); err != nil {
		return store.Record{}, err
	}
	r, err := t.reader.ByDigest(digest)
	return r, t.kept(err)
}

// List implements store.Reader.
func (t *tx) List(q store.Query) ([]store.Record, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	found, err := t.reader.List(q)
	return found, t.kept(err)
}

// Head implements store.Reader.
func (t *tx) Head() (int64, error) { return t.feed.Head, t.check() }

// exec writes, and returns how many rows were.
func (t *tx) exec(query string, args ...any) (int64, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	result, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, t.kept(t.s.fault(t.ctx, "write", err))
	}
	return result.RowsAffected()
}

// Put implements store.Tx. Whether the digest is taken is asked first: this
// transaction is alone, and a failed statement would spoil it in PostgreSQL.
func (t *tx) Put(r store.Record) error {
	if err := t.check(); err != nil {
		return err
	}
	r, err := store.Normal(r)
	if err != nil {
		return err
	}
	if r.Digest != "" {
		other, err := t.ByDigest(r.Digest)
		if err == nil && (other.Kind != r.Kind || other.ID != r.ID) {
			return store.ErrExists
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	n, err := t.exec(`INSERT INTO records (kind, id, tenant, owner, digest, expires_at, body, version, deleted)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, FALSE)
		ON CONFLICT (kind, id) DO UPDATE SET tenant = excluded.tenant, owner = excluded.owner, digest = excluded.digest,
			expires_at = excluded.expires_at, body = excluded.body, version = excluded.version
		WHERE NOT records.deleted`,
		string(r.Kind), r.ID, r.Tenant, r.Owner, r.Digest, micros(r.ExpiresAt), r.Body, t.feed.Head+1)
	if err == nil && n == 0 {
		return store.ErrExists // the id of a tombstone
	}
	t.wrote = true
	return err
}

// Delete implements store.Tx.
func (t *tx) Delete(kind store.Kind, id string) error {
	old, err := t.Get(kind, id)
	if err != nil {
		return err
	}
	dead := old.Tombstone(t.at)
	t.wrote = true
	_, err = t.exec(`UPDATE records SET digest = '', expires_at = $3, body = NULL, version = $4, deleted = TRUE WHERE kind = $1 AND id = $2`,
		string(kind), id, micros(dead.ExpiresAt), t.feed.Head+1)
	return err
}

// Note implements store.Tx. Entries are written at the end, when it is known
// whether anything was changed.
func (t *tx) Note(e store.AuditEntry) error {
	t.notes = append(t.notes, e)
	return t.check()
}

func (t *tx) writeNote(e store.AuditEntry) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO audit (seq, at, actor, action, target, tenant, entry) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		e.Seq, micros(e.At), e.Actor, e.Action, e.Target, e.Tenant, body)
	return err
}

func (t *tx) addUsage(u store.Usage) error {
	_, err := t.exec(`INSERT INTO usage AS u (credential, day, route, tenant, principal, allowed, denied, last_used_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (credential, day, route) DO UPDATE SET tenant = excluded.tenant, principal = excluded.principal,
			allowed = u.allowed + excluded.allowed, denied = u.denied + excluded.denied,
			last_used_at = CASE WHEN u.last_used_at > excluded.last_used_at THEN u.last_used_at ELSE excluded.last_used_at END`,
		u.Credential, u.Day, u.Route, u.Tenant, u.Principal, u.Allowed, u.Denied, micros(u.LastUsedAt))
	return err
}

// purge removes some of what ended before a time.
func (t *tx) purge(before int64) (n int, err error) {
	floor := t.feed.Floor
	err = t.query(func(rows *sql.Rows) error {
		var version int64
		var deleted bool
		err := rows.Scan(&version, &deleted)
		if deleted {
			floor = max(floor, version)
		}
		n++
		return err
	}, `DELETE FROM records WHERE (kind, id) IN
		(SELECT kind, id FROM records WHERE expires_at <> 0 AND expires_at < $1 LIMIT $2)
		RETURNING version, deleted`, before, purgeSize)
	if floor > t.feed.Floor {
		t.feed.Floor = floor
		t.feed.Purges++
	}
	return n, err
}
