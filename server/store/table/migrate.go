package table

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"

	"github.com/postern-auth/postern/server/store"
)

//go:embed migrations/*.sql
var files embed.FS

// migration is a step of the schema. Its number is its place, from 1; its hash is
// written down with it, so that a file that is edited later is noticed.
type migration struct{ name, sql, hash string }

// migrations returns all that this program knows.
func migrations() []migration {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	all := make([]migration, len(names))
	for i, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err) // it is part of the program
		}
		sum := sha256.Sum256(text)
		all[i] = migration{strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql"), string(text), hex.EncodeToString(sum[:])}
	}
	return all
}

// Schema is the schema that this program wants: how many migrations it knows.
func Schema() int { return len(migrations()) }

// migrate brings the schema up to date, or says why not. Where nothing is to be
// done it only reads, so that a role that may not change the schema will do.
func (s *Store) migrate(ctx context.Context, o Options) error {
	tx, err := s.read.BeginTx(ctx, snapshot)
	if err != nil {
		return s.fault(ctx, "open the database", err)
	}
	done, err := s.applied(ctx, tx)
	_ = tx.Rollback() // it only read
	if err != nil {
		return err
	}
	all := migrations()
	if done == 0 && o.MustExist {
		return fmt.Errorf("%w: there is no store in this database", store.ErrNotFound)
	}
	if done < len(all) && o.NoMigrate {
		return fmt.Errorf("the store has schema %d, this Postern needs %d: run postern store migrate", done, len(all))
	}
	for done < len(all) {
		if done, err = s.step(ctx, all); err != nil {
			return err
		}
	}
	return nil
}

// applied returns how many migrations a database has, if they are ours.
func (s *Store) applied(ctx context.Context, tx *sql.Tx) (done int, err error) {
	r := reader{ctx, s, tx}
	exists := 0
	if err := r.query(func(rows *sql.Rows) error { return rows.Scan(&exists) }, s.dialect.HasSchema); err != nil || exists == 0 {
		return 0, err
	}
	all := migrations()
	err = r.query(func(rows *sql.Rows) error {
		var number int
		var name, hash string
		if err := rows.Scan(&number, &name, &hash); err != nil {
			return err
		}
		done++
		switch {
		case number > len(all):
			return fmt.Errorf("%w: it has migration %d (%s), this one knows %d", store.ErrNewer, number, name, len(all))
		case number != done:
			return fmt.Errorf("%w: migration %d is missing", store.ErrCorrupt, done)
		case hash != all[number-1].hash:
			return fmt.Errorf("migration %d of the store (%s) is another one than this program's (%s): it was changed after it had been released", number, name, all[number-1].name)
		}
		return nil
	}, `SELECT number, name, hash FROM schema_migrations ORDER BY number`)
	return done, err
}

// step carries out the next migration, if nobody else has, and returns how many
// there are now.
func (s *Store) step(ctx context.Context, all []migration) (int, error) {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, s.fault(ctx, "migrate", err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing is left to undo after the commit
	types := strings.NewReplacer(s.dialect.Types...)
	exec := func(query string, args ...any) {
		if err == nil {
			_, err = tx.ExecContext(ctx, query, args...)
		}
	}
	exec(s.dialect.Schema)
	exec(types.Replace(`CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL, applied_at INTEGER NOT NULL)`))
	if err != nil {
		return 0, s.fault(ctx, "migrate", err)
	}
	done, err := s.applied(ctx, tx)
	if err != nil || done == len(all) {
		return done, err
	}
	next := all[done]
	exec(types.Replace(next.sql))
	if done == 0 {
		exec(`INSERT INTO feed (one, epoch, head, audit, floor, purges) VALUES (1, $1, 0, 0, 0, 0)`, newEpoch())
	}
	exec(`INSERT INTO schema_migrations (number, name, hash, applied_at) VALUES ($1, $2, $3, $4)`, done+1, next.name, next.hash, micros(s.now()))
	if err == nil {
		err = tx.Commit()
	}
	return done + 1, s.fault(ctx, "migration "+next.name, err)
}

func newEpoch() string { return rand.Text() }
