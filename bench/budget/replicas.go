package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// replica is a process.
type replica struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	socket string
}

// fleet is all replicas, of which one dies now and then.
type fleet struct {
	s       settings
	address string
	dir     string

	mu    sync.RWMutex
	all   []*replica
	made  int
	kills int
}

func newFleet(s settings, address, dir string) (*fleet, error) {
	f := &fleet{s: s, address: address, dir: dir}
	for range s.replicas {
		r, err := f.start()
		if err != nil {
			return f, err
		}
		f.all = append(f.all, r)
	}
	return f, nil
}

func (f *fleet) start() (*replica, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f.made++
	r := &replica{cmd: exec.Command(self), socket: filepath.Join(f.dir, fmt.Sprintf("%d.sock", f.made))}
	r.cmd.Env = append(os.Environ(), childVariable+"="+f.address, socketVariable+"="+r.socket,
		fmt.Sprintf("%s=%d", limitVariable, f.s.limit), waitVariable+"="+f.s.wait.String())
	r.cmd.Stderr = os.Stderr
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return nil, fmt.Errorf("a replica did not start: %q, %w", line, errors.Join(err, r.cmd.Wait()))
	}
	return r, nil
}

// kill kills replicas, one after the other, until ctx ends.
func (f *fleet) kill(ctx context.Context) error {
	if f.s.kill == 0 {
		return nil
	}
	tick := time.NewTicker(f.s.kill)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		next, err := f.start()
		if err != nil {
			return err
		}
		f.mu.Lock()
		i := rand.IntN(len(f.all))
		victim := f.all[i]
		f.all[i] = next
		f.kills++
		f.mu.Unlock()
		_ = victim.cmd.Process.Kill()
		_ = victim.cmd.Wait()
	}
}

// close ends all replicas in good order.
func (f *fleet) close() (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.all {
		err = errors.Join(err, r.stdin.Close(), r.cmd.Wait())
	}
	f.all = nil
	return err
}

// link is a client's connection to some replica.
type link struct {
	f      *fleet
	random *rand.Rand
	conn   net.Conn
	lines  *bufio.Scanner
}

var errGone = errors.New("the replica is gone")

// ask sends a line and returns the answer. After an error the next one goes to another
// replica.
func (l *link) ask(line string) (string, error) {
	if l.conn == nil {
		l.f.mu.RLock()
		if len(l.f.all) == 0 {
			l.f.mu.RUnlock()
			return "", io.EOF
		}
		socket := l.f.all[l.random.IntN(len(l.f.all))].socket
		l.f.mu.RUnlock()
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return "", errGone
		}
		l.conn, l.lines = conn, bufio.NewScanner(conn)
	}
	if _, err := io.WriteString(l.conn, line+"\n"); err != nil || !l.lines.Scan() {
		l.move()
		return "", errGone
	}
	return l.lines.Text(), nil
}

// move goes to another replica the next time.
func (l *link) move() {
	if l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
}

func yes(answer string) bool { return answer == "yes" || strings.HasPrefix(answer, "yes ") }
