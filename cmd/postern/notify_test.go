package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A service manager is told when Postern answers, that it lives, and that it stops: by
// the built program, over the socket that systemd would give it.
func TestNotify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if said, err := initIn(t, ".", "--dir", dir); err != nil {
		t.Fatal(said)
	}
	socket, err := os.MkdirTemp("", "n") // a path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(socket) })
	at := filepath.Join(socket, "s")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	cmd := programOf(t, dir, "serve", "-c", "postern.yaml", "--grpc", "127.0.0.1:0", "--admin", "off")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+at, "WATCHDOG_USEC=20000")
	var log journal
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	hear := func(want string) {
		t.Helper()
		for range 10_000 {
			_ = manager.SetReadDeadline(time.Now().Add(patience))
			text := make([]byte, 4096)
			n, err := manager.Read(text)
			if err != nil {
				t.Fatalf("nobody says %s: %v\n%s", want, err, log.String())
			}
			first, _, _ := strings.Cut(string(text[:n]), "\n")
			if first == want {
				return
			}
			if first != "WATCHDOG=1" {
				t.Fatalf("%q before %s", text[:n], want)
			}
		}
		t.Fatal("never ", want)
	}
	hear("READY=1")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error(err, log.String())
	}
}

// Without a manager, or with one that is gone, the server runs as ever.
func TestNotifyNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	t.Setenv("WATCHDOG_USEC", "nonsense")
	n := newNotify(slog.New(slog.DiscardHandler))
	if n.watchdog != 0 || os.Getenv("NOTIFY_SOCKET") != "" {
		t.Errorf("%+v", n)
	}
	n.ready(t.Context())()
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", "1")
	if n := newNotify(n.log); n.watchdog != 0 || n.socket != "" {
		t.Errorf("another process is watched, and this one beats: %+v", n)
	}
	newNotify(n.log).ready(t.Context())()
}
