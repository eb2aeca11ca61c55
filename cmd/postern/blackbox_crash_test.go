package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-auth/postern/bench/rig"
	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// What a server survives, and what it refuses to survive: kills, full disks, disks that
// fail, files that are damaged, gone or somebody else's. These are small turns; the same
// at full size are `go run ./bench/durability` (1,000 kills, and power cuts with -power)
// and `go run ./bench/faults`.

// launchPlane starts a server with a store of its own and an application in it.
func launchPlane(t testing.TB, changes ...func(*exec.Cmd)) *replica {
	t.Helper()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w, changes...)
	p.service(t, "app")
	return p
}

// again starts a server in the world of one that has ended.
func (p *replica) again(t testing.TB, changes ...func(*exec.Cmd)) *replica {
	t.Helper()
	return launch(t, p.world, changes...)
}

// sound looks through the store with the command that does so.
func (w world) sound(t testing.TB) {
	t.Helper()
	if out := postern(t, "store", "check", "-c", w.path("postern.yaml")); !strings.Contains(out, "faults         none") {
		t.Errorf("the store: %s", out)
	}
}

// refusal runs a server that must not start, and returns what it says.
func (w world) refusal(t testing.TB, changes ...func(*exec.Cmd)) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	cmd := exec.CommandContext(ctx, "postern", "serve", "-c", w.path("postern.yaml"))
	cmd.Env = append(os.Environ(), hurry)
	for _, change := range changes {
		change(cmd)
	}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != exitFault {
		t.Errorf("the server should have refused to start: %v\n%s", err, out)
	}
	return string(out)
}

// CRASH-01: a server is killed while eight writers issue and revoke keys. What was
// acknowledged is true after it, nothing is there by half, and the store is sound.
func TestCrashKilled(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	standing, ended := map[string]bool{}, map[string]bool{}
	for round := range 4 {
		var mu sync.Mutex
		var writers sync.WaitGroup
		var acknowledged atomic.Int64
		for range 8 {
			writers.Go(func() {
				for {
					res, err := p.credentials.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, PrincipalId: "app"}})
					if err != nil {
						return
					}
					mu.Lock()
					standing[res.GetSecret()] = true
					mu.Unlock()
					if acknowledged.Add(1)%2 == 0 {
						continue
					}
					_, err = p.credentials.RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: res.GetCredential().GetId()})
					mu.Lock()
					delete(standing, res.GetSecret()) // nobody knows, unless it was acknowledged
					ended[res.GetSecret()] = err == nil
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		eventually(t, "there are changes to lose", func() bool { return acknowledged.Load() >= 12 })
		p.stop(t, os.Kill)
		writers.Wait()
		p.sound(t)
		p = p.again(t)
		for key := range standing {
			p.expect(t, withKey("/", key), 200, "allowed")
		}
		for key, certain := range ended {
			if a := p.ask(t, withKey("/", key)); certain && a.reason != "revoked" {
				t.Errorf("round %d: a key that was revoked: %v", round, a)
			}
		}
	}
	t.Logf("%d keys stand, %d are revoked or in doubt", len(standing), len(ended))
}

// disk mounts a small file system of its own at a directory, or skips the test.
func disk(t testing.TB, dir, size string) {
	t.Helper()
	unmount, err := rig.MountMemory(dir, size)
	if err != nil {
		t.Skip("no file system can be mounted here: ", err)
	}
	t.Cleanup(func() {
		if err := unmount(); err != nil {
			t.Error(err)
		}
	})
}

// CRASH-03: the disk is full, with the store, a decision log and the journal on it. What
// writes fails and says so, and changes nothing; checks are answered; and when there is
// room again all goes on, without a restart.
func TestCrashDiskFull(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, "{ driver: sqlite, path: disk/postern.db }")
	disk(t, w.path("disk"), "8m")
	w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), "decisions: { log: all }",
		"decisions: { log: all, events: { which: all, file: { path: disk/decisions.jsonl } } }", 1))
	w.bootstrap(t)
	p := launch(t, w)
	p.service(t, "app")
	id, key := p.key(t, "app")
	_, other := p.key(t, "app")
	p.becomes(t, withKey("/", key), 200, "allowed")

	ballast := stuff(t, w.path("disk"))
	var made []string // there is some room left in the store's log, and what fits is kept
	eventually(t, "no key can be issued", func() bool {
		res, err := p.credentials.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, PrincipalId: "app"}})
		if err == nil {
			made = append(made, res.GetSecret())
			stuffMore(ballast)
			return false
		}
		return full(t, err)
	})
	for range 3 {
		_, err := p.credentials.RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: id})
		if err == nil || !full(t, err) {
			t.Errorf("a revocation on a full disk: %v", err)
		}
		_, err = p.principals.CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Id: "late", Kind: aService}})
		if err == nil || !full(t, err) {
			t.Errorf("a principal on a full disk: %v", err)
		}
		for _, key := range append([]string{key, other}, made...) {
			p.expect(t, withKey("/", key), 200, "allowed")
		}
		p.expect(t, withKey("/", foreign()), 401, "credential_unknown")
	}
	if out, err := exec.Command("postern", "store", "backup", "-c", w.path("postern.yaml"), w.path("disk/copy.db")).CombinedOutput(); err == nil {
		t.Errorf("a backup to a full disk: %s", out)
	}
	if _, err := os.Stat(w.path("disk/copy.db")); err == nil {
		t.Error("half a backup is there")
	}
	if left, _ := filepath.Glob(w.path("disk/.*")); len(left) > 0 {
		t.Errorf("a backup that failed has left %v", left)
	}
	if status, body := p.fetch(t, "/readyz"); status != 200 {
		t.Errorf("/readyz on a full disk: %d %s", status, body)
	}

	if err := errors.Join(ballast.Close(), os.Remove(ballast.Name())); err != nil {
		t.Fatal(err)
	}
	var later string
	eventually(t, "a key can be issued again", func() bool {
		res, err := p.credentials.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, PrincipalId: "app"}})
		later = res.GetSecret()
		return err == nil
	})
	p.becomes(t, withKey("/", later), 200, "allowed")
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	p.becomes(t, withKey("/", key), 401, "revoked")
	p.stop(t, syscall.SIGTERM)
	p.sound(t)
	p = p.again(t)
	p.expect(t, withKey("/", key), 401, "revoked")
	for _, key := range append([]string{other, later}, made...) {
		p.expect(t, withKey("/", key), 200, "allowed")
	}
}

// full says whether a call was refused because the disk is full.
func full(t testing.TB, err error) bool {
	if status.Code(err) != codes.ResourceExhausted || reasonOf(err) != "STORE_FULL" || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("%s %v", reasonOf(err), err)
		return false
	}
	return true
}

// stuff takes all the room that a file system has.
func stuff(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	stuffMore(f)
	return f
}

func stuffMore(f *os.File) {
	for _, size := range []int{1 << 16, 1 << 12, 1} {
		for some := make([]byte, size); ; {
			if _, err := f.Write(some); err != nil {
				break
			}
		}
	}
}

// CRASH-04: fsync fails once. What it was to make last is not acknowledged, and although
// the disk says from then on that all is well, nothing is written any more: the server
// says why, goes on answering, and works again after a restart.
func TestCrashUnsynced(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	id, key := p.key(t, "app")
	p.becomes(t, withKey("/", key), 200, "allowed")
	heal := failFsync(t, p.cmd.Process.Pid)
	_, err := p.credentials.RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: id})
	if status.Code(err) != codes.Unavailable || reasonOf(err) != "STORE_UNAVAILABLE" || !strings.Contains(err.Error(), "did not say whether") {
		t.Errorf("what is not on disk: %s %v", reasonOf(err), err)
	}
	heal()
	for range 3 {
		_, err := p.principals.CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Id: "late", Kind: aService}})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("after an error of the disk: %v", err)
		}
	}
	p.expect(t, withKey("/", key), 200, "allowed")
	if _, body := p.fetch(t, "/readyz"); !strings.Contains(body, "can be read but not written") {
		t.Errorf("/readyz: %s", body)
	}
	if metric(t, p.scrape(t), "postern_store_failed") != 1 {
		t.Error("no metric tells of it")
	}
	p.stop(t, syscall.SIGTERM)
	p.sound(t)
	p = p.again(t)
	p.service(t, "late")
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	p.becomes(t, withKey("/", key), 401, "revoked")
}

// failFsync lets every fsync of a process fail until the returned function is called.
func failFsync(t testing.TB, pid int) (heal func()) {
	t.Helper()
	tracer, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("no strace is installed (Debian: apt-get install strace)")
	}
	said := filepath.Join(t.TempDir(), "strace")
	cmd := exec.Command(tracer, "-f", "-qq", "-o", said, "-p", strconv.Itoa(pid), "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
	complaints, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(complaints)
		_ = cmd.Wait()
		ended <- string(text)
	}()
	eventually(t, "strace is attached", func() bool {
		select {
		case why := <-ended:
			t.Skip("strace may not trace here: ", why)
		default:
		}
		return traced(pid)
	})
	return sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it lets go of the process
		<-ended
	})
}

// traced says whether all threads of a process are traced.
func traced(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	return len(threads) > 0 && !slices.ContainsFunc(threads, func(name string) bool {
		text, err := os.ReadFile(name)
		return err == nil && strings.Contains(string(text), "TracerPid:\t0\n")
	})
}

// CRASH-05: a store that is damaged, empty, of somebody else, or not there any more is
// refused with a word on what helps, and no empty one takes its place.
func TestCrashDamagedStore(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	_, key := p.key(t, "app")
	id, revoked := p.key(t, "app")
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	p.stop(t, syscall.SIGTERM)
	whole := p.read(t, "postern.db")

	const restore = "restore a backup"
	zeros := strings.Repeat("\x00", 4096)
	for name, c := range map[string]struct{ store, hint string }{
		"cut to nothing":      {"", restore},
		"cut to half a page":  {whole[:2048], restore},
		"cut in the middle":   {whole[:len(whole)/2/4096*4096], restore},
		"first page of zeros": {zeros + whole[4096:], restore},
		"all zeros":           {strings.Repeat(zeros, len(whole)/4096), restore},
		"text":                {strings.Repeat("hello ", 1000), restore},
	} {
		w := p.twin(t)
		w.write(t, "postern.db", c.store)
		if said := w.refusal(t); !strings.Contains(said, c.hint) {
			t.Errorf("%s: %s", name, said)
		}
		if w.read(t, "postern.db") != c.store {
			t.Errorf("%s: the damaged store was written to", name)
		}
	}

	gone := p.twin(t) // with the file that says that there was a store
	if err := os.Remove(gone.path("postern.db")); err != nil {
		t.Fatal(err)
	}
	if said := gone.refusal(t); !strings.Contains(said, restore) {
		t.Errorf("gone: %s", said)
	}
	if _, err := os.Stat(gone.path("postern.db")); err == nil {
		t.Error("an empty store stands in the place of the one that is gone")
	}

	flipPages(t, p.world, whole, key, revoked)
}

// twin is a world with the same store.
func (w world) twin(t testing.TB) world {
	t.Helper()
	other := world(t.TempDir())
	if err := os.CopyFS(string(other), os.DirFS(string(w))); err != nil {
		t.Fatal(err)
	}
	return other
}

// flipPages damages a store page by page. All of it is seen at the start but what is in
// the room for further records alone, and then nothing but the truth is told.
func flipPages(t *testing.T, w world, whole, key, revoked string) {
	pages := len(whole) / 4096
	refused, served := 0, 0
	for page := 1; page < pages; page += max(1, pages/12) {
		damaged := []byte(whole)
		for i := range 4096 {
			damaged[page*4096+i] ^= 0xa5
		}
		twin := w.twin(t)
		twin.write(t, "postern.db", string(damaged))
		p, said := twin.tries(t)
		if p == nil {
			refused++
			if !strings.Contains(said, "the store is damaged") || !strings.Contains(said, "restore a backup") {
				t.Errorf("page %d: %s", page, said)
			}
			continue
		}
		served++
		p.expect(t, withKey("/", revoked), 401, "revoked")
		p.expect(t, withKey("/", key), 200, "allowed")
		p.stop(t, syscall.SIGTERM)
	}
	t.Logf("of %d damages %d were refused at the start", refused+served, refused)
	if served > 1 {
		t.Errorf("%d damages were not seen", served)
	}
}

// tries starts a server that may refuse, and returns it or what it said.
func (w world) tries(t testing.TB) (p *replica, said string) {
	t.Helper()
	var out journal
	cmd := exec.Command("postern", "serve", "-c", w.path("postern.yaml"))
	cmd.Env, cmd.Stderr = append(os.Environ(), hurry), &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	eventually(t, "it starts, or refuses to", func() bool {
		select {
		case <-ended:
			return true
		default:
			return strings.Contains(out.String(), `"msg":"ready"`)
		}
	})
	_ = cmd.Process.Kill()
	<-ended
	if !strings.Contains(out.String(), `"msg":"ready"`) {
		return nil, out.String()
	}
	return launch(t, w), ""
}

// CRASH-05: the store is removed while it is in use. What is known counts on, nothing is
// acknowledged that would be lost, and the next start does not begin with nothing.
func TestCrashStoreRemoved(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	id, key := p.key(t, "app")
	p.becomes(t, withKey("/", key), 200, "allowed")
	if err := os.Remove(p.path("postern.db")); err != nil {
		t.Fatal(err)
	}
	_, err := p.credentials.RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: id})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("a revocation that would be lost: %v", err)
	}
	p.expect(t, withKey("/", key), 200, "allowed")
	p.stop(t, syscall.SIGTERM)
	if said := p.refusal(t); !strings.Contains(said, "is gone") || !strings.Contains(said, "restore a backup") {
		t.Errorf("the next start: %s", said)
	}
}

// CRASH-06: a second server on the same store refuses, whatever else it listens on; the
// commands that look after the store do not mind. A killed server holds nothing.
func TestCrashSecondServer(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	began := time.Now()
	said := p.refusal(t)
	if !strings.Contains(said, "is in use by another Postern") {
		t.Errorf("the second server: %s", said)
	}
	t.Logf("refused after %v", time.Since(began).Round(time.Millisecond))
	p.sound(t)
	postern(t, "store", "backup", "-c", p.path("postern.yaml"), p.path("copy.db"))
	_, key := p.key(t, "app")
	p.stop(t, os.Kill)
	p.again(t).expect(t, withKey("/", key), 200, "allowed")
}

// CRASH-08: servers are told to stop while clients ask all the time. A client that keeps
// to GOAWAY, and waits until the next server is there, notices nothing, and each server
// ends well.
func TestCrashStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	at, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	here := func(cmd *exec.Cmd) { cmd.Args = append(cmd.Args, "--grpc", at) }
	w.bootstrap(t)
	p := launch(t, w, here)
	p.service(t, "app")
	_, key := p.key(t, "app")
	p.becomes(t, withKey("/", key), 200, "allowed")

	ctx, stop := context.WithCancel(t.Context())
	var asked atomic.Int64
	var load sync.WaitGroup
	for range 8 {
		client := authv3.NewAuthorizationClient(dial(t, at))
		load.Go(func() {
			for ctx.Err() == nil {
				res, err := client.Check(context.Background(), withKey("/", key).forEnvoy(), grpc.WaitForReady(true))
				if err != nil || res.GetOkResponse() == nil && !busy(res) {
					t.Errorf("after %d: %v %v", asked.Load(), res, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	more := func(n int64) {
		before := asked.Load()
		eventually(t, "there is load", func() bool { return t.Failed() || asked.Load() > before+n })
	}
	for range 4 {
		more(200)
		if p.stop(t, syscall.SIGTERM); p.err != nil {
			t.Errorf("the server ended: %v", p.err)
		}
		p = launch(t, w, here)
	}
	more(200)
	stop()
	load.Wait()
	t.Logf("%d requests", asked.Load())
}

// busy is the answer of a replica that had no time to look at its store for a second.
func busy(res *authv3.CheckResponse) bool {
	a, _ := readEnvoy(res)
	return a.reason == "dependency_unavailable"
}
