package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/pgtest"
	"github.com/postern-auth/postern/server/store/postgres"
	"github.com/postern-auth/postern/server/store/storetest"
	"github.com/postern-auth/postern/server/store/table"
)

// opener opens stores in schemas of one database.
func opener(t testing.TB) storetest.Open {
	database := pgtest.Database(t)
	var n atomic.Int64
	return func(t testing.TB, now func() time.Time) store.Store {
		return open(t, fmt.Sprintf("%s search_path=s%d", database, n.Add(1)), postgres.Options{Now: now})
	}
}

func open(t testing.TB, address string, o postgres.Options) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(s store.Store, id string) error {
	_, err := s.Update(context.Background(), func(tx store.Tx) error {
		return tx.Put(store.Record{Kind: store.KindDenial, ID: id, Body: []byte("{}")})
	})
	return err
}

func exec(t testing.TB, address, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, opener(t))
}

func BenchmarkStore(b *testing.B) {
	c, err := pgtest.Start(true)
	if err != nil {
		b.Skip(err)
	}
	defer c.Close()
	storetest.Bench(b, func(t testing.TB, now func() time.Time) store.Store {
		address, err := c.Database(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return open(t, address, postgres.Options{Now: now})
	})
}

// S-07: what one replica writes the other reads, and is told of.
func TestReplicas(t *testing.T) {
	t.Parallel()
	address := pgtest.Database(t)
	a, b := open(t, address, postgres.Options{}), open(t, address, postgres.Options{})
	hints := make(chan struct{}, 100)
	go b.Listen(t.Context(), func() { hints <- struct{}{} })
	<-hints
	if err := put(a, "x"); err != nil {
		t.Fatal(err)
	}
	for {
		batch, err := b.Changes(t.Context(), 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(batch.Records) > 0 {
			return
		}
		<-hints
	}
}

// Replicas that start at the same time migrate once.
func TestStartTogether(t *testing.T) {
	t.Parallel()
	address := pgtest.Database(t)
	done := make(chan error)
	for i := range 8 {
		go func() {
			s, err := postgres.Open(t.Context(), address, postgres.Options{})
			if err == nil {
				err = errors.Join(put(s, fmt.Sprint(i)), s.Close())
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	report, err := open(t, address, postgres.Options{MustExist: true, NoMigrate: true}).Check(t.Context())
	if err != nil || report.Head != 8 || len(report.Faults) > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// A server that is restarted costs those who were just writing an error, and
// nobody else anything: no call fails twice.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	c, err := pgtest.Start(false)
	if errors.Is(err, pgtest.ErrNone) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := open(t, c.Address("postgres"), postgres.Options{})
	hints := make(chan struct{}, 100)
	go s.Listen(t.Context(), func() { hints <- struct{}{} })
	<-hints
	for i, stop := range []func() error{c.Down, c.Kill} {
		if err := errors.Join(put(s, fmt.Sprint("a", i)), stop()); err != nil {
			t.Fatal(err)
		}
		read := func() error { _, err := s.Changes(t.Context(), 0, 1); return err }
		for put(s, "x") == nil { // its processes outlive a killed server by a moment
		}
		for read() == nil {
		}
		if err := errors.Join(c.Up(), put(s, fmt.Sprint("b", i)), read()); err != nil {
			t.Fatal(err)
		}
	}
	other := open(t, c.Address("postgres"), postgres.Options{})
	for len(hints) > 0 {
		<-hints
	}
	if err := put(other, "y"); err != nil {
		t.Fatal(err)
	}
	<-hints // it listens again, or is about to and then gives one
}

// A writer that stops while it holds the feed, as by SIGSTOP, holds up the others
// only until the server ends its session.
func TestStoppedWriter(t *testing.T) {
	t.Parallel()
	address := pgtest.Database(t)
	stopped, other := open(t, address, postgres.Options{}), open(t, address, postgres.Options{})
	held, release, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := stopped.Update(t.Context(), func(tx store.Tx) error {
			err := tx.Put(store.Record{Kind: store.KindDenial, ID: "lost", Body: []byte("{}")})
			close(held)
			<-release
			return err
		})
		done <- err
	}()
	<-held
	if err := put(other, "x"); err != nil {
		t.Fatal(err)
	}
	close(release)
	if err := <-done; err == nil {
		t.Fatal("the stopped one was told that it had written")
	}
	if err := put(stopped, "y"); err != nil {
		t.Fatal(err)
	}
	report, err := other.Check(t.Context())
	if err != nil || report.Head != 2 || report.Records[store.KindDenial] != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// A role that may write but not change the schema is enough, once it is there.
func TestRoles(t *testing.T) {
	t.Parallel()
	address := pgtest.Database(t)
	role := fmt.Sprintf("role%d", time.Now().UnixNano())
	as := strings.Replace(address, "user=postgres", "user="+role, 1)
	exec(t, address, "CREATE ROLE "+role+" LOGIN")
	if _, err := postgres.Open(t.Context(), as, postgres.Options{}); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "postern store migrate") {
		t.Fatal(err)
	}
	open(t, address, postgres.Options{})
	exec(t, address, "GRANT USAGE ON SCHEMA postern TO "+role+"; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA postern TO "+role)
	if err := put(open(t, as, postgres.Options{}), "x"); err != nil {
		t.Fatal(err)
	}
	exec(t, address, "REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA postern FROM "+role)
	if _, err := postgres.Open(t.Context(), as, postgres.Options{}); !errors.Is(err, store.ErrReadOnly) {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	address := pgtest.Database(t)
	try := func(address string, o postgres.Options) string {
		s, err := postgres.Open(t.Context(), address, o)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint("opened", s.Close())
	}
	expect := func(what, got string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %q does not say %q", what, got, part)
			}
		}
	}
	expect("nothing there", try(address, postgres.Options{MustExist: true}), "there is no store in this database")
	expect("not to migrate", try(address, postgres.Options{NoMigrate: true}), fmt.Sprintf("schema 0, this Postern needs %d: run postern store migrate", table.Schema()))
	expect("new", try(address, postgres.Options{}), "opened")
	exec(t, address, "ALTER ROLE postgres IN DATABASE "+address[strings.LastIndex(address, "=")+1:]+" SET synchronous_commit = off")
	expect("not durable", try(address, postgres.Options{}), "synchronous_commit is off")
	exec(t, address, "ALTER ROLE postgres IN DATABASE "+address[strings.LastIndex(address, "=")+1:]+" RESET synchronous_commit")
	expect("read only", try(address+" default_transaction_read_only=on", postgres.Options{}), store.ErrReadOnly.Error(), "standby")
	exec(t, address, fmt.Sprintf("INSERT INTO postern.schema_migrations VALUES (%d, 'later', 'x', 0)", table.Schema()+1))
	expect("newer", try(address, postgres.Options{}), store.ErrNewer.Error(), "(later)")
	exec(t, address, "DELETE FROM postern.schema_migrations WHERE number = 2; UPDATE postern.schema_migrations SET hash = 'x'")
	expect("edited", try(address, postgres.Options{}), "migration 1 of the store (001_records) is another one")
	exec(t, address, "DELETE FROM postern.schema_migrations")
	expect("another's tables", try(address, postgres.Options{}), "already exists")
}

// No error shows the password, whatever is wrong with the address.
func TestNoPasswordInErrors(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry%zz"
	for _, address := range []string{
		"postgres://user:" + canary + "@127.0.0.1:1/db",
		"postgres://user:c4n4ry@127.0.0.1:1/db",
		"postgres://user:c4n4ry@[::1/db",
		"postgres://user:c4n4ry@127.0.0.1:1/db?sslmode=c4n4ry",
		"host=127.0.0.1 port=1 user=u password=c4n4ry dbname=d",
		"host=127.0.0.1 port=c4n4ry password='c4n4ry",
		"mysql://user:c4n4ry@host/db",
		"c4n4ry",
	} {
		_, err := postgres.Open(t.Context(), address, postgres.Options{})
		if err == nil || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%s: %v", address, err)
		}
	}
}
