package main

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/store/table"
)

// CRASH-09: a configuration, a policy or a key set is broken, and the server is told to
// read everything again, as `systemctl reload` does: by the command that looks first, and
// by SIGHUP. The command fails, one line of the log says what is wrong, and what was in
// force answers as before.
func TestCrashBrokenReload(t *testing.T) {
	t.Parallel()
	for file, bad := range map[string]string{
		"postern.yaml":       "version: 1\nnonsense: true\n",
		"policy/authz.rego":  "package postern.authz\n\ndecision := {",
		"policy/tables.yaml": "routes: {",
		"jwks.json":          `{"keys":`,
	} {
		t.Run(strings.ReplaceAll(file, "/", "_"), func(t *testing.T) {
			t.Parallel()
			p := launchPlane(t)
			_, key := p.key(t, "app")
			token := get("/", bearer(testIssuer.token(claims{"sub": "ann"}))...)
			p.becomes(t, withKey("/", key), 200, "allowed")
			p.write(t, file, bad)
			cmd := exec.Command("postern", "config", "check", "-c", p.path("postern.yaml"))
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("config check: %s", out)
			}
			const failed = "reload failed; what was in force stays"
			eventually(t, "it was noticed without a signal", func() bool { return len(p.log.entries(t, failed)) > 0 })
			// That may come twice: by the event, and by what the file system says of the file.
			// So of three signals two at least are seen to be answered.
			const unasked, signals = 2, 3
			for range signals {
				before := len(p.log.entries(t, failed))
				if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the signal is answered in the log", func() bool { return len(p.log.entries(t, failed)) > before })
			}
			p.expect(t, withKey("/", key), 200, "allowed")
			p.expect(t, token, 200, "allowed")
			if n := len(p.log.entries(t, failed)); n > unasked+signals {
				t.Errorf("%d lines for %d reloads at most", n, unasked+signals)
			}
			if !p.runs() {
				t.Error("the server ended")
			}
		})
	}
}

// CRASH-11: a server that may open 64 files, and a hundred clients. Those who are there
// are served, nobody spins, and when the others leave there is room again.
func TestCrashFewFiles(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w, func(cmd *exec.Cmd) {
		args := cmd.Args
		cmd.Args = append([]string{"sh", "-c", `ulimit -n 64 && exec "$0" "$@"`, cmd.Path}, args[1:]...)
		if sh, err := exec.LookPath("sh"); err == nil {
			cmd.Path = sh
		}
	})
	p.service(t, "app")
	_, key := p.key(t, "app")
	p.becomes(t, withKey("/", key), 200, "allowed")
	p.expect(t, withKey("/", key), 200, "allowed")

	var crowd []net.Conn
	for range 100 {
		conn, err := net.DialTimeout("tcp", p.rpc, time.Second)
		if err != nil {
			break // the queue of the listener is full as well
		}
		crowd = append(crowd, conn)
	}
	before := processorTime(t, p.cmd.Process.Pid)
	began := time.Now()
	for time.Since(began) < 2*time.Second {
		p.expect(t, withKey("/", key), 200, "allowed")
		p.expect(t, withKey("/", foreign()), 401, "credential_unknown")
		time.Sleep(50 * time.Millisecond)
	}
	spent := processorTime(t, p.cmd.Process.Pid) - before
	share := float64(spent) / float64(time.Since(began))
	t.Logf("%d connections, %.0f %% of a CPU", len(crowd), 100*share)
	if share > 0.5 {
		t.Errorf("it spends %.0f %% of a CPU", 100*share)
	}
	for _, conn := range crowd {
		_ = conn.Close()
	}
	eventually(t, "somebody new is served", func() bool {
		conn, err := net.DialTimeout("tcp", p.rpc, time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, err = conn.Read(make([]byte, 9)) // the server speaks first: SETTINGS
		return err == nil
	})
	eventually(t, "metrics are served", func() bool {
		status, _, err := fetchText("http://" + p.admin + "/metrics")
		return err == nil && status == 200
	})
}

// processorTime is what a process has spent of a CPU; where nobody says, the test skips.
func processorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skip(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] { // user and system, in hundredths of a second
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// older makes the store one of the first release's schema.
func (w world) older(t testing.TB) {
	t.Helper()
	w.alter(t, `DELETE FROM schema_migrations WHERE number > 1; DROP INDEX records_feed;
		CREATE INDEX records_feed ON records (version, kind, id); DROP TABLE ledger_accounts; DROP TABLE ledger_settlements`)
}

// alter changes the store behind its back.
func (w world) alter(t testing.TB, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", w.path("postern.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statements); err != nil {
		t.Fatal(err)
	}
}

// killedInMigration kills `postern store migrate` when a step is done and not committed
// yet: a trigger of the test's own keeps it there for longer than anybody waits.
func (w world) killedInMigration(t testing.TB, step int) {
	t.Helper()
	db, err := sql.Open("sqlite", w.path("postern.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	w.alter(t, fmt.Sprintf(`CREATE TRIGGER endless AFTER INSERT ON schema_migrations WHEN NEW.number = %d BEGIN
		SELECT count(*) FROM sqlite_schema a, sqlite_schema b, sqlite_schema c, sqlite_schema d, sqlite_schema e, sqlite_schema f, sqlite_schema g, sqlite_schema h; END`, step))
	cmd := exec.Command("postern", "store", "migrate", "-c", w.path("postern.yaml"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	applied := func() (n int) {
		if err := db.QueryRow(`SELECT count(*) FROM schema_migrations`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, fmt.Sprintf("it is in step %d", step), func() bool {
		if applied() != step-1 {
			return false
		}
		_, err := db.Exec(`BEGIN IMMEDIATE; ROLLBACK`)
		return err != nil && strings.Contains(err.Error(), "locked")
	})
	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("it was not killed: %v", err)
	}
	w.alter(t, "DROP TRIGGER endless")
	if n := applied(); n != step-1 {
		t.Errorf("killed in step %d, and %d are done", step, n)
	}
}

// CRASH-13: a store of the first release is brought up to date, also if that is killed
// in each of its steps, again and again; a store of a later one is refused. All keys stay what they
// were.
func TestCrashUpgrade(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	_, key := p.key(t, "app")
	id, revoked := p.key(t, "app")
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	p.stop(t, syscall.SIGTERM)
	for step := 2; step <= table.Schema(); step++ {
		p.older(t)
		for range 2 { // and what was left half-way once more
			p.killedInMigration(t, step)
		}
		out := postern(t, "store", "migrate", "-c", p.path("postern.yaml"))
		if want := fmt.Sprintf("the store has schema %d\n", table.Schema()); out != want {
			t.Errorf("after a kill in step %d: %q", step, out)
		}
		p.sound(t)
	}
	p.older(t) // and by the server itself
	p = p.again(t)
	p.expect(t, withKey("/", key), 200, "allowed")
	p.expect(t, withKey("/", revoked), 401, "revoked")
	p.stop(t, syscall.SIGTERM)

	later := table.Schema() + 1
	p.alter(t, fmt.Sprintf("INSERT INTO schema_migrations VALUES (%d, 'later', 'x', 0)", later))
	whole := p.read(t, "postern.db")
	for _, command := range []string{"serve", "store check", "store migrate", "store backup " + p.path("copy.db")} {
		cmd := exec.Command("postern", append(strings.Fields(command), "-c", p.path("postern.yaml"))...)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "written by a newer version of Postern") || !strings.Contains(string(out), "later") {
			t.Errorf("%s with a newer store: %v %s", command, err, out)
		}
	}
	if p.read(t, "postern.db") != whole {
		t.Error("the newer store was changed")
	}
}

// CRASH-14: a backup is taken while keys are issued and revoked. What is restored of it
// elsewhere is a state that was: everything acknowledged before the backup, nothing of a
// change without those before it, and what was revoked stays so.
func TestCrashBackupWhileWriting(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	id, revoked := p.key(t, "app")
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	type made struct {
		secret string
		change int64
	}
	var mu sync.Mutex
	var all []made
	var acknowledged atomic.Int64
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := p.credentials.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, PrincipalId: "app"}})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, made{res.GetSecret(), res.GetChange().GetNumber()})
				mu.Unlock()
				acknowledged.Add(1)
			}
		})
	}
	more := func(n int64) {
		before := acknowledged.Load()
		eventually(t, "keys are issued", func() bool { return t.Failed() || acknowledged.Load() >= before+n })
	}
	more(20)
	mu.Lock()
	before := int64(len(all))
	sure := all[:before:before]
	mu.Unlock()
	postern(t, "store", "backup", "-c", p.path("postern.yaml"), p.path("copy.db"))
	more(20)
	close(stop)
	writers.Wait()

	elsewhere := p.twin(t)
	for _, name := range []string{"postern.db", "postern.db-wal", "postern.db-shm", "postern.db.lock"} {
		if err := os.Remove(elsewhere.path(name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	postern(t, "store", "restore", "-c", elsewhere.path("postern.yaml"), p.path("copy.db"))
	elsewhere.sound(t)
	q := launch(t, elsewhere)
	last, first := int64(0), int64(1<<62) // changes: the last that is there, the first that is not
	there := 0
	for _, m := range all {
		if q.ask(t, withKey("/", m.secret)).allowed() {
			last = max(last, m.change)
			there++
		} else {
			first = min(first, m.change)
		}
	}
	if last > first {
		t.Errorf("change %d is there and change %d is not", last, first)
	}
	for _, m := range sure {
		q.expect(t, withKey("/", m.secret), 200, "allowed")
	}
	q.expect(t, withKey("/", revoked), 401, "revoked")
	t.Logf("%d keys, %d of them before the backup, %d in it", len(all), before, there)
}

// asNobody runs a command as somebody who owns nothing.
func asNobody(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// CRASH-05: a store that belongs to somebody else, or that may only be read, is refused
// with what has to be done.
func TestCrashForeignStore(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	program, err := exec.LookPath("postern")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "postern") // a way that everybody may go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	if err := copyProgram(program, filepath.Join(dir, "postern")); err != nil {
		t.Fatal(err)
	}
	w2 := world(filepath.Join(dir, "world"))
	if err := os.CopyFS(string(w2), os.DirFS(string(w))); err != nil {
		t.Fatal(err)
	}
	open := func(mode os.FileMode, uid int) {
		if err := filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return os.Chmod(name, 0o777)
			}
			return os.Chmod(name, 0o755)
		}); err != nil {
			t.Fatal(err)
		}
		name := w2.path("postern.db")
		if err := os.Chown(name, uid, uid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]struct {
		mode os.FileMode
		uid  int
	}{"of somebody else": {0o600, 0}, "only to be read": {0o400, 65534}, "of somebody else, for all to write": {0o666, 0}} {
		open(c.mode, c.uid)
		said := w2.refusal(t, asNobody, func(cmd *exec.Cmd) { cmd.Path = filepath.Join(dir, "postern") })
		if !strings.Contains(said, "must belong to the user that runs Postern") && !strings.Contains(said, "can be read by others than its owner") {
			t.Errorf("%s: %s", what, said)
		}
	}
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
