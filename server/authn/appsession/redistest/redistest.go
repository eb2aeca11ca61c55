// Package redistest runs Redis or Valkey for tests: the real server, as the machine has
// it installed, without a disk and on a Unix socket only.
package redistest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a running server, and a client of its first user, who may do everything.
type Server struct {
	*redis.Client
	// URL is where it listens.
	URL string

	t       testing.TB
	program string
	args    []string
	process *exec.Cmd
}

// Start runs a server until the test ends, with further options of its command line.
// Where there is none the test is skipped.
func Start(t testing.TB, options ...string) *Server {
	t.Helper()
	s := &Server{t: t}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil && s.program == "" {
			s.program = path
		}
	}
	if s.program == "" {
		t.Skip("there is neither redis-server nor valkey-server (Debian: apt-get install redis-server)")
	}
	dir, err := os.MkdirTemp("", "redis") // short: the path of a socket has about 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	s.URL, s.Client = "unix://"+socket, redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	s.args = append([]string{"--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir}, options...)
	t.Cleanup(func() {
		_ = s.Close()
		s.Kill()
		_ = os.RemoveAll(dir)
	})
	s.Restart()
	return s
}

// Kill ends the server, with all that it knew.
func (s *Server) Kill() {
	if s.process != nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
	}
}

// Restart starts it again after Kill, empty, and returns when it answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.process = exec.CommandContext(context.WithoutCancel(s.t.Context()), s.program, s.args...)
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // a process that starts has no other sign
		err := s.Ping(s.t.Context()).Err()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not answer: %v", s.program, err)
		}
	}
}
