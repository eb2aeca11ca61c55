// Package postgres keeps a store in PostgreSQL, which several replicas share, with
// the engine of package table.
//
// Whoever writes holds the feed's row until the commit, over all replicas. A
// replica that stops in the middle, by SIGSTOP or a dead network, would hold up
// all; so the server ends a writer's session that is idle in a transaction for
// idleInTransaction, and gives up waiting for the row after lockTimeout.
//
// Every commit notifies the channel "postern". One connection listens, and connects
// again whenever it is lost; what was missed meanwhile is not missed by readers,
// who are given a hint after each connect and ask the feed by themselves anyway.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/table"
)

const (
	// defaultSchema is where the tables are unless the address sets search_path.
	defaultSchema = "postern"
	channel       = "postern"
	// migrationLock is the advisory lock of those who migrate.
	migrationLock = 0x706f737465726e

	readerCount       = 8
	ledgerCount       = 4
	connectTimeout    = 5 * time.Second
	idleInTransaction = "2s"
	lockTimeout       = "10s"
	// postTimeout is how long a transaction of the ledger waits for an account.
	postTimeout = "4s"
)

// Options are for opening a store.
type Options = table.Options

// Store is a table.Store in PostgreSQL.
type Store struct {
	*table.Store
	config *pgx.ConnConfig

	listen sync.Once
	stop   context.CancelFunc // ends listening
	ctx    context.Context
	ended  sync.WaitGroup
}

// Open opens the store at an address of the forms that PostgreSQL's own clients
// take, as "postgres://user@host/database" or "host=… dbname=…". What these leave
// out comes from PGPASSWORD and the like. No error shows a password.
func Open(ctx context.Context, address string, o Options) (*Store, error) {
	config, err := parse(address)
	if err != nil {
		return nil, err
	}
	writing := config.Copy()
	writing.RuntimeParams["idle_in_transaction_session_timeout"] = idleInTransaction
	writing.RuntimeParams["lock_timeout"] = lockTimeout
	posting := writing.Copy()
	posting.RuntimeParams["lock_timeout"] = postTimeout
	write, read, ledger := stdlib.OpenDB(*writing), stdlib.OpenDB(*config), stdlib.OpenDB(*posting)
	write.SetMaxOpenConns(1)
	ledger.SetMaxOpenConns(ledgerCount)
	ledger.SetMaxIdleConns(ledgerCount)
	ledger.SetConnMaxIdleTime(time.Minute)
	read.SetMaxOpenConns(readerCount)
	read.SetMaxIdleConns(readerCount)
	read.SetConnMaxIdleTime(time.Minute)

	if err := durable(ctx, write); err != nil {
		return nil, errors.Join(err, write.Close(), read.Close(), ledger.Close())
	}
	t, err := table.New(ctx, dialect(config), write, read, ledger, o)
	if err != nil {
		return nil, err
	}
	s := &Store{Store: t, config: config}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// parse reads an address. Why one is no address is not said: the reason can quote
// the password.
func parse(address string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, errors.New("the address of the store is not one of PostgreSQL: write postgres://user@host:5432/database?sslmode=verify-full, or host=… dbname=…, and the password into PGPASSWORD or a passfile")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.DialFunc = (&net.Dialer{
		Timeout:         config.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3},
	}).DialContext
	for name, value := range map[string]string{"search_path": defaultSchema, "application_name": "postern"} {
		if config.RuntimeParams[name] == "" {
			config.RuntimeParams[name] = value
		}
	}
	return config, nil
}

// durable makes sure that what the server acknowledges is on disk.
func durable(ctx context.Context, db *sql.DB) error {
	var value string
	if err := db.QueryRowContext(ctx, "SHOW synchronous_commit").Scan(&value); err != nil {
		return fmt.Errorf("open the store: %w", fault(err))
	}
	if value == "off" {
		return errors.New("synchronous_commit is off: the server would acknowledge what it can still lose; set it to on for the role of Postern")
	}
	return nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.stop()
	err := s.Store.Close()
	s.ended.Wait()
	return err
}

func dialect(config *pgx.ConnConfig) table.Dialect {
	schema, _, _ := strings.Cut(config.RuntimeParams["search_path"], ",")
	schema = pgx.Identifier{strings.Trim(schema, ` "`)}.Sanitize()
	return table.Dialect{
		Types: []string{"TEXT", `TEXT COLLATE "C"`, "INTEGER", "BIGINT", "BLOB", "BYTEA"},
		Lock:  " FOR UPDATE",
		Schema: fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d);
			DO $$ BEGIN IF current_schema() IS NULL THEN CREATE SCHEMA %s; END IF; END $$`, migrationLock, schema),
		HasSchema: `SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_migrations'`,
		Announce:  `SELECT pg_notify('` + channel + `', head::text) FROM feed`,
		Fault:     fault,
		Undone: func(err error) bool { // the server itself said no
			e, ok := errors.AsType[*pgconn.PgError](err)
			return ok && e.Severity == "ERROR" || errors.Is(err, pgx.ErrTxCommitRollback)
		},
		Again: func(err error) bool {
			e, ok := errors.AsType[*pgconn.PgError](err)
			return ok && (e.Code == "40P01" || e.Code == "40001") // deadlock_detected, serialization_failure
		},
		Describe: describe,
	}
}

func describe(ctx context.Context, tx *sql.Tx, report *store.Report) error {
	var version, database, schema string
	err := tx.QueryRowContext(ctx, `SELECT current_setting('server_version'), current_database(), current_schema(),
		(SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace)`).
		Scan(&version, &database, &schema, &report.Bytes)
	report.Engine = fmt.Sprintf("PostgreSQL %s, %s, schema %s", version, database, schema)
	return err
}

// fault says in the words of package store what the server complains of. Its codes
// are in appendix A of its manual.
func fault(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch e.Code {
	case "25006": // read_only_sql_transaction
		return fmt.Errorf("%w: the server is a standby or set to read only: %w", store.ErrReadOnly, err)
	case "53100": // disk_full
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	case "42501": // insufficient_privilege
		return fmt.Errorf("%w: the role lacks a right; run postern store migrate as one that may change the schema, and grant the other SELECT, INSERT, UPDATE and DELETE: %w", store.ErrReadOnly, err)
	case "XX001", "XX002": // data_corrupted, index_corrupted
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	case "55P03": // lock_not_available
		return fmt.Errorf("another replica has held what is to be written for too long: %w", err)
	case "23514": // check_violation
		return fmt.Errorf("%w: %w", store.ErrUnbalanced, err)
	}
	return err
}
