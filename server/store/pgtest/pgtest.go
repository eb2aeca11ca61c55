// Package pgtest runs PostgreSQL for tests: the real server, as the machine has it
// installed, in a directory of its own and on a Unix socket only.
//
// A shell watches over each cluster. It waits for the end of its standard input,
// which comes when the test's process ends in whatever way, then stops the server
// and removes the directory; so nothing is left behind even by kill -9. The server
// refuses to run as root; then it runs as the user postgres.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNone says that there is no server on this machine.
var ErrNone = errors.New("no PostgreSQL server is installed (Debian: apt-get install postgresql)")

var (
	shared    = sync.OnceValues(func() (*Cluster, error) { return Start(false) })
	databases atomic.Int64
)

// Database returns the address of a new, empty database. The first call starts a
// server that is shared by all tests of the process; it does not wait for the disk.
// Where there is none the test is skipped.
func Database(t testing.TB) string {
	t.Helper()
	c, err := shared()
	if errors.Is(err, ErrNone) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	address, err := c.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// Cluster is a server with its data.
type Cluster struct {
	dir     string
	bin     string
	attr    *syscall.SysProcAttr
	durable bool
	watch   io.Closer // the shell's standard input
	watcher *exec.Cmd
}

// Start starts a server with an empty cluster. With durable it waits for the disk
// at each commit, as in production.
func Start(durable bool) (*Cluster, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "pg") // the path of a socket must be short
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, bin: bin, durable: durable}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

func (c *Cluster) prepare() error {
	if os.Getuid() == 0 {
		if err := c.yield(); err != nil {
			return err
		}
	}
	if err := c.guard(); err != nil {
		return err
	}
	if err := c.run("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"); err != nil {
		return errors.Join(err, c.Close())
	}
	if err := c.Up(); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

// yield has everything run as the user postgres.
func (c *Cluster) yield() error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("%w: root cannot run it, and there is no user postgres", ErrNone)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	c.attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return os.Chown(c.dir, uid, gid)
}

// guard starts the shell that cleans up in the end.
func (c *Cluster) guard() (err error) {
	c.watcher = c.command("sh", "-c", `cat >/dev/null; "$1/pg_ctl" stop -D "$2/data" -m immediate -s; rm -rf "$2"`, "sh", c.bin, c.dir)
	c.watcher.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // no Ctrl-C for it
	if c.attr != nil {
		c.watcher.SysProcAttr.Credential = c.attr.Credential
	}
	if c.watch, err = c.watcher.StdinPipe(); err != nil {
		return err
	}
	return c.watcher.Start()
}

// find returns the directory of the newest server's programs.
func find() (string, error) {
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), "initdb")); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", ErrNone
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return number(a) - number(b) })
	return filepath.Dir(newest), nil
}

func number(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...) //nolint:noctx // the server outlives who starts it
	cmd.Dir = c.dir
	cmd.SysProcAttr = c.attr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	return cmd
}

// run runs one of the server's programs; its output goes to a file, because a
// server that it starts would keep a pipe open.
func (c *Cluster) run(name string, args ...string) error {
	out, err := os.OpenFile(filepath.Join(c.dir, name+".out"), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := c.command(filepath.Join(c.bin, name), args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		log, _ := os.ReadFile(filepath.Join(c.dir, "log"))
		return fmt.Errorf("%s: %w: %s%s", name, err, said, log)
	}
	return nil
}

// Up starts the server, if need be after a crash, and waits until it answers.
func (c *Cluster) Up() error {
	options := "-c listen_addresses='' -c unix_socket_directories='" + c.dir + "' -c max_connections=200"
	if !c.durable {
		options += " -c fsync=off -c full_page_writes=off"
	}
	for attempt := 0; ; attempt++ { // the processes of one that was killed take a moment to end
		err := c.run("pg_ctl", "start", "-D", c.data(), "-w", "-s", "-l", filepath.Join(c.dir, "log"), "-o", options)
		if err == nil || attempt == 50 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Down stops the server as an operator does, cutting all connections.
func (c *Cluster) Down() error {
	return c.run("pg_ctl", "stop", "-D", c.data(), "-m", "fast", "-w", "-s")
}

// Kill ends the server with SIGKILL; Up then waits until nothing is left of it.
func (c *Cluster) Kill() error {
	text, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.SplitN(string(text), "\n", 2)[0])
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	return nil
}

// Database makes a new, empty database and returns its address.
func (c *Cluster) Database(ctx context.Context) (string, error) {
	conn, err := pgx.Connect(ctx, c.Address("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx) //nolint:errcheck // the database is made or not
	name := fmt.Sprintf("test%d", databases.Add(1))
	_, err = conn.Exec(ctx, "CREATE DATABASE "+name)
	return c.Address(name), err
}

// Address is that of a database of the cluster.
func (c *Cluster) Address(database string) string {
	return "host=" + c.dir + " user=postgres dbname=" + database
}

// Close stops the server and removes its data.
func (c *Cluster) Close() error {
	return errors.Join(c.watch.Close(), c.watcher.Wait())
}
