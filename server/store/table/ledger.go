package table

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// Transactions of the ledger do not go through the writer: they lock their accounts and
// nothing else, in the order of their keys, so that those of different accounts do not
// wait for each other. Accounts that are new are made, empty, before anything is locked:
// who waits for somebody else's new account holds nothing.

const (
	// postTime is how long a transaction of the ledger may take.
	postTime = 5 * time.Second
	// postTries is how often one is tried that the database has undone for another's sake.
	postTries = 4
	// maxRows is how many rows one statement writes. Statements are of 2^n rows, so that
	// there are few different ones to prepare.
	maxRows = 64
)

// errMissing says that accounts have to be made first.
var errMissing = errors.New("accounts are missing")

// Post implements store.Ledger.
func (s *Store) Post(ctx context.Context, about store.About, fn func(*store.Sheet) error) error {
	if err := about.Check(); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	ctx, cancel := context.WithTimeoutCause(ctx, postTime, errSlow)
	defer cancel()
	keys := slices.Sorted(slices.Values(about.Accounts))
	create := false
	for try := 1; ; try++ {
		err := s.post(ctx, about, keys, create, fn)
		switch {
		case errors.Is(err, errMissing):
			create = true
		case err == nil || try >= postTries || ctx.Err() != nil || !errors.Is(err, errUndone):
			return err
		}
	}
}

// errUndone says that the database has undone a transaction that can be tried again.
var errUndone = errors.New("the transaction was undone")

// posting is one transaction of the ledger.
type posting struct {
	reader
	// began says that the transaction has done something, so that an error is one of a
	// connection that had been good.
	began bool
}

func (s *Store) post(ctx context.Context, about store.About, keys []string, create bool, fn func(*store.Sheet) error) error {
	if err := s.writable(); err != nil {
		return err
	}
	tx, err := s.ledger.BeginTx(ctx, nil)
	if err != nil {
		return s.fault(ctx, "begin", err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing is left to undo after the commit
	p := &posting{reader: reader{ctx, s, tx}}
	if create {
		if err := p.create(keys); err != nil {
			return err
		}
	}
	sheet, before, err := p.read(about, keys)
	if err != nil {
		return err
	}
	settled := make([]bool, len(sheet.Settlements))
	for i, t := range sheet.Settlements {
		settled[i] = t.Sum != ""
	}
	if err := fn(sheet); err != nil {
		return err
	}
	if err := p.write(sheet, before, settled); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		if !s.dialect.Undone(err) {
			return fmt.Errorf("%w: %w", store.ErrUncertain, s.fault(ctx, "commit", err))
		}
		return p.fault("commit", err)
	}
	return nil
}

// fault marks what can be tried again.
func (p *posting) fault(doing string, err error) error {
	if err == nil {
		return nil
	}
	again := p.s.dialect.Again != nil && p.s.dialect.Again(err) || !p.began
	err = p.s.fault(p.ctx, doing, err)
	if again {
		return fmt.Errorf("%w: %w", errUndone, err)
	}
	return err
}

// create makes the accounts that are missing. Those of no content go again with the
// transaction unless it fills them.
func (p *posting) create(keys []string) error {
	const row = `(?, '', '', '', '', 0, 0, 0, 0, 0, 0, 0, 0, FALSE, 0, 0, 0, ?)`
	return inPowers(keys, func(some []string) error {
		args := make([]any, 0, 2*len(some))
		for _, key := range some {
			args = append(args, key, []byte("{}"))
		}
		_, err := p.exec(`INSERT INTO ledger_accounts (`+accountColumns+`) VALUES `+rows(row, len(some))+` ON CONFLICT (key) DO NOTHING`, args...)
		return err
	})
}

// exec writes, and returns how many rows were.
func (p *posting) exec(query string, args ...any) (int64, error) {
	result, err := p.tx.ExecContext(p.ctx, query, args...)
	if err != nil {
		return 0, p.fault("write", err)
	}
	return result.RowsAffected()
}

// query reads.
func (p *posting) query(scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := p.tx.QueryContext(p.ctx, query, args...)
	if err != nil {
		return p.fault("read", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	for rows.Next() {
		if err := scan(rows); err != nil {
			return p.fault("read", err)
		}
	}
	return p.fault("read", rows.Err())
}

// read locks the accounts and returns the sheet, and the accounts as they were. What was
// settled is read before, so that the accounts are locked for less long; should somebody
// settle the same in between, write notices.
func (p *posting) read(about store.About, keys []string) (*store.Sheet, []store.Account, error) {
	sheet := &store.Sheet{Accounts: make([]store.Account, len(about.Accounts))}
	var err error
	if sheet.Settlements, err = p.settlements(about.Settlements); err != nil {
		return nil, nil, err
	}
	p.began = len(about.Settlements) > 0
	place := make(map[string]int, len(keys))
	for i, key := range about.Accounts {
		place[key] = i
		sheet.Accounts[i].Key = key
	}
	found := 0
	if len(keys) > 0 {
		err = p.accounts(func(a store.Account) {
			sheet.Accounts[place[a.Key]] = a
			found++
		}, `key IN (`+list(padded(len(keys)))+`) ORDER BY key`+p.s.dialect.Lock, pad(keys)...)
	}
	if err == nil && found < len(keys) {
		err = errMissing
	}
	p.began = true
	before := make([]store.Account, len(sheet.Accounts))
	for i := range sheet.Accounts {
		before[i] = sheet.Accounts[i].Clone()
	}
	return sheet, before, err
}

// settlements returns those with the ids, in that order.
func (p *posting) settlements(ids []string) ([]store.Settlement, error) {
	found := make([]store.Settlement, len(ids))
	place := make(map[string]int, len(ids))
	for i, id := range ids {
		place[id] = i
		found[i].ID = id
	}
	if len(ids) == 0 {
		return found, nil
	}
	err := p.query(func(rows *sql.Rows) error {
		var t store.Settlement
		var expires int64
		err := rows.Scan(&t.ID, &t.Sum, &expires)
		t.ExpiresAt = moment(expires)
		if i, ok := place[t.ID]; ok {
			found[i] = t
		}
		return err
	}, `SELECT id, sum, expires_at FROM ledger_settlements WHERE id IN (`+list(padded(len(ids)))+`)`, pad(ids)...)
	return found, err
}

const accountColumns = `key, budget, unit, subject, tenant, begin_at, end_at, ceiling, settled, reserved, leased, overrun, lost, recalled, due_at, expires_at, updated_at, parts`

// accounts reads accounts that fit a condition.
func (p *posting) accounts(each func(store.Account), condition string, args ...any) error {
	return p.query(func(rows *sql.Rows) error {
		a, err := scanAccount(rows)
		if err == nil {
			each(a)
		}
		return err
	}, `SELECT `+accountColumns+` FROM ledger_accounts WHERE `+condition, args...)
}

func scanAccount(rows *sql.Rows) (a store.Account, err error) {
	var begin, end, due, expires, updated int64
	var parts []byte
	if err := rows.Scan(&a.Key, &a.Budget, &a.Unit, &a.Subject, &a.Tenant, &begin, &end, &a.Limit, &a.Settled, &a.Reserved, &a.Leased,
		&a.Overrun, &a.Lost, &a.Recalled, &due, &expires, &updated, &parts); err != nil {
		return a, err
	}
	if err := json.Unmarshal(parts, &a.Parts); err != nil {
		return a, fmt.Errorf("%w: account %s: %w", store.ErrCorrupt, a.Key, err)
	}
	a.Begin, a.End, a.Due, a.ExpiresAt, a.UpdatedAt = moment(begin), moment(end), moment(due), moment(expires), moment(updated)
	return a, nil
}

// write writes what has changed since it was read.
func (p *posting) write(sheet *store.Sheet, before []store.Account, settled []bool) error {
	var changed []store.Account
	var empty []string
	for i := range sheet.Accounts {
		a, err := sheet.Accounts[i].Normal(p.s.now())
		if err != nil {
			return err
		}
		switch {
		case a.Budget == "":
			empty = append(empty, a.Key)
		case !a.Same(&before[i]):
			changed = append(changed, a)
		}
	}
	slices.SortFunc(changed, func(a, b store.Account) int { return strings.Compare(a.Key, b.Key) })
	if err := p.writeSettlements(sheet.Settlements, settled); err != nil {
		return err
	}
	if err := inPowers(changed, p.writeAccounts); err != nil {
		return err
	}
	return inPowers(empty, func(some []string) error {
		_, err := p.exec(`DELETE FROM ledger_accounts WHERE budget = '' AND key IN (`+list(len(some))+`)`, pad(some)...)
		return err
	})
}

func (p *posting) writeAccounts(some []store.Account) error {
	const row = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	args := make([]any, 0, 18*len(some))
	for i := range some {
		a := &some[i]
		parts, err := json.Marshal(a.Parts)
		if err != nil {
			return err
		}
		args = append(args, a.Key, a.Budget, a.Unit, a.Subject, a.Tenant, micros(a.Begin), micros(a.End), a.Limit, a.Settled, a.Reserved, a.Leased,
			a.Overrun, a.Lost, a.Recalled, micros(a.Due), micros(a.ExpiresAt), micros(a.UpdatedAt), parts)
	}
	_, err := p.exec(`INSERT INTO ledger_accounts (`+accountColumns+`) VALUES `+rows(row, len(some))+`
		ON CONFLICT (key) DO UPDATE SET budget = excluded.budget, unit = excluded.unit, subject = excluded.subject, tenant = excluded.tenant,
			begin_at = excluded.begin_at, end_at = excluded.end_at, ceiling = excluded.ceiling, settled = excluded.settled,
			reserved = excluded.reserved, leased = excluded.leased, overrun = excluded.overrun, lost = excluded.lost,
			recalled = excluded.recalled, due_at = excluded.due_at, expires_at = excluded.expires_at,
			updated_at = excluded.updated_at, parts = excluded.parts`, args...)
	return err
}

// writeSettlements writes those that are new.
func (p *posting) writeSettlements(all []store.Settlement, settled []bool) error {
	var made []store.Settlement
	for i, t := range all {
		if t.Sum != "" && !settled[i] {
			made = append(made, t)
		}
	}
	return inPowers(made, func(some []store.Settlement) error {
		args := make([]any, 0, 3*len(some))
		for _, t := range some {
			args = append(args, t.ID, t.Sum, micros(t.ExpiresAt))
		}
		n, err := p.exec(`INSERT INTO ledger_settlements (id, sum, expires_at) VALUES `+rows(`(?, ?, ?)`, len(some))+` ON CONFLICT (id) DO NOTHING`, args...)
		if err == nil && n < int64(len(some)) {
			return fmt.Errorf("%w: somebody else has settled the same", errUndone)
		}
		return err
	})
}

// Accounts implements store.Ledger.
func (s *Store) Accounts(ctx context.Context, q store.AccountQuery) (found []store.Account, err error) {
	var c conditions
	c.text(`key = `, q.Key)
	c.text(`budget = `, q.Budget)
	c.text(`subject = `, q.Subject)
	c.text(`tenant <> '' AND tenant = `, q.Tenant) // as the index says it
	c.text(`key > `, q.After)
	err = s.snapshot(ctx, func(r reader) error {
		if c.never {
			return nil
		}
		p := &posting{reader: r, began: true}
		return p.accounts(func(a store.Account) { found = append(found, a) }, c.sql()+` ORDER BY key`+c.limit(q.Limit), c.args...)
	})
	return found, err
}

// Recalled implements store.Ledger.
func (s *Store) Recalled(ctx context.Context, limit int) ([]string, error) {
	return s.accountKeys(ctx, `SELECT key FROM ledger_accounts WHERE recalled ORDER BY key LIMIT $1`, store.Page(limit))
}

// Due implements store.Ledger.
func (s *Store) Due(ctx context.Context, before time.Time, limit int) ([]string, error) {
	return s.accountKeys(ctx, `SELECT key FROM ledger_accounts WHERE due_at <> 0 AND due_at < $1 ORDER BY due_at, key LIMIT $2`, micros(before), store.Page(limit))
}

// accountKeys asks without a transaction of its own: one statement reads one state.
func (s *Store) accountKeys(ctx context.Context, query string, args ...any) (keys []string, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, s.fault(ctx, "read", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, s.fault(ctx, "read", rows.Err())
}

// Prune implements store.Ledger.
func (s *Store) Prune(ctx context.Context, before time.Time) (int, error) {
	total := 0
	for _, query := range []string{
		`DELETE FROM ledger_accounts WHERE key IN
			(SELECT key FROM ledger_accounts WHERE expires_at <> 0 AND expires_at < $1 AND due_at = 0 ORDER BY key LIMIT $2)`,
		`DELETE FROM ledger_settlements WHERE id IN
			(SELECT id FROM ledger_settlements WHERE expires_at < $1 ORDER BY id LIMIT $2)`,
	} {
		for n := int64(1); n > 0; {
			var err error
			if n, err = s.prune(ctx, query, micros(before)); err != nil {
				return total, err
			}
			total += int(n)
		}
	}
	return total, nil
}

func (s *Store) prune(ctx context.Context, query string, before int64) (int64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.life.RUnlock()
	if err := s.writable(); err != nil {
		return 0, err
	}
	result, err := s.ledger.ExecContext(ctx, query, before, purgeSize)
	if err != nil {
		return 0, s.fault(ctx, "prune", err)
	}
	return result.RowsAffected()
}

// inPowers calls fn with parts of a list, each of 2^n items.
func inPowers[T any](all []T, fn func([]T) error) error {
	for len(all) > 0 {
		n := maxRows
		for n > len(all) {
			n /= 2
		}
		if err := fn(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// padded is the power of two that is n or the next above it.
func padded(n int) int {
	size := 1
	for size < n {
		size *= 2
	}
	return size
}

// pad repeats the last name, so that there are as many as a statement has places.
func pad(names []string) []any {
	args := make([]any, padded(len(names)))
	for i := range args {
		args[i] = names[min(i, len(names)-1)]
	}
	return args
}

// list is "$1, $2, …".
func list(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", i+1)
	}
	return b.String()
}

// rows repeats a row of a VALUES with its places numbered.
func rows(row string, n int) string {
	var b strings.Builder
	place := 0
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		for _, c := range row {
			if c != '?' {
				b.WriteRune(c)
				continue
			}
			place++
			fmt.Fprintf(&b, "$%d", place)
		}
	}
	return b.String()
}

var _ store.Ledger = (*Store)(nil)
