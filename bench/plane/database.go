package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/postern-auth/postern/server/store/pgtest"
)

// database is a throw-away PostgreSQL with one database for the replicas.
type database struct {
	*pgtest.Cluster
	dsn string
	// asleep are the processes that hang.
	asleep []int
}

// Close ends the server, also one that hangs.
func (d *database) Close() error { return errors.Join(d.wake(), d.Cluster.Close()) }

// newDatabase starts one that waits for the disk, as in production.
func newDatabase(ctx context.Context) (*database, error) {
	c, err := pgtest.Start(true)
	if err != nil {
		return nil, err
	}
	dsn, err := c.Database(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	// A schema before PostgreSQL's own, so that what announces a change can be made to
	// say nothing; see mute.
	d := &database{Cluster: c, dsn: dsn + " search_path=postern,pg_catalog"}
	if err := d.exec(ctx, "CREATE SCHEMA postern"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return d, nil
}

func (d *database) exec(ctx context.Context, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, d.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// mute loses a share of all notifications, 0 to 1: a function of Postern's schema
// stands before PostgreSQL's own.
func (d *database) mute(ctx context.Context, share float64) error {
	return d.exec(ctx, fmt.Sprintf(`CREATE OR REPLACE FUNCTION postern.pg_notify(text, text) RETURNS void LANGUAGE plpgsql VOLATILE AS
		$$ BEGIN IF random() >= %v THEN PERFORM pg_catalog.pg_notify($1, $2); END IF; END $$`, share))
}

// deafen ends the connections that listen.
func (d *database) deafen(ctx context.Context) error {
	return d.exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
}

// cut ends all connections of a replica.
func (d *database) cut(ctx context.Context, r *replica) error {
	return d.exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1`, r.name)
}

// processes are those of the server, the postmaster first.
func (d *database) processes() ([]int, error) {
	_, rest, _ := strings.Cut(d.dsn, "host=")
	dir, _, _ := strings.Cut(rest, " ")
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(first)
	if err != nil {
		return nil, err
	}
	all := []int{postmaster}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])) // proc(5): state, ppid
		if len(fields) > 1 && fields[1] == first {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			all = append(all, pid)
		}
	}
	return all, nil
}

// hang stops the server's processes without ending them: connections stay and
// nothing answers. The returned function wakes them.
func (d *database) hang() (wake func() error, err error) {
	if d.asleep, err = d.processes(); err != nil {
		return nil, err
	}
	return d.wake, send(d.asleep, syscall.SIGSTOP)
}

func (d *database) wake() error {
	all := d.asleep
	d.asleep = nil
	return send(all, syscall.SIGCONT)
}

// send signals processes, some of which may have ended.
func send(all []int, s syscall.Signal) error {
	var errs []error
	for _, pid := range all {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
