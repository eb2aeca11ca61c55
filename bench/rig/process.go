// Package rig is what the measuring tools share: it builds servers and starts them,
// asks them, and reads from the kernel and from their metrics what that cost.
package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Build builds a command of this module. The flags of the linker may be empty.
func Build(ctx context.Context, binary, command, ldflags string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags="+ldflags, "-o", binary, "github.com/postern-auth/postern/"+command)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", command, err, out)
	}
	return nil
}

// Stripped are the flags with which releases are linked.
const Stripped = "-s -w"

// Process is a server under test.
type Process struct {
	// GRPC is where it is asked, Admin where it tells its metrics.
	GRPC, Admin string
	Started     time.Time

	cmd    *exec.Cmd
	ended  chan struct{} // closed when it has
	log    tail
	scrape float64 // what it allocates to tell its metrics once
}

// Launch is how a server is started. It can be started again, at the same addresses.
type Launch struct {
	Binary string
	Args   []string
	// GRPC and Admin are where it listens.
	GRPC, Admin string
	// Under is a command that executes the server, with its own arguments, such as one
	// that limits it first. Empty: nothing stands before it.
	Under []string
}

// Start runs a server at addresses that are free and waits until it takes connections.
func Start(ctx context.Context, binary string, args func(grpcAddr, httpAddr string) []string) (*Process, error) {
	l := Launch{Binary: binary, GRPC: FreeAddr(), Admin: FreeAddr()}
	l.Args = args(l.GRPC, l.Admin)
	return l.Start(ctx)
}

// Start runs the server and waits until it takes connections.
func (l Launch) Start(ctx context.Context) (*Process, error) {
	p := &Process{GRPC: l.GRPC, Admin: l.Admin, ended: make(chan struct{})}
	line := append(append(slices.Clone(l.Under), l.Binary), l.Args...)
	p.cmd = exec.CommandContext(ctx, line[0], line[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.WaitDelay = time.Second
	p.Started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	for waited := time.Duration(0); waited < time.Minute && !p.Ended(); waited = time.Since(p.Started) {
		if c, err := net.Dial("tcp", p.GRPC); err == nil {
			_ = c.Close()
			return p, nil
		}
		// As exact as a hundredth: asking more often would take from a server that needs
		// seconds what it needs.
		time.Sleep(max(200*time.Microsecond, waited/100))
	}
	p.Stop()
	return nil, fmt.Errorf("%s does not listen:\n%s", filepath.Base(l.Binary), p.Said())
}

// Stop ends the server as an operator does, and waits for that.
func (p *Process) Stop() {
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		p.Kill()
	}
}

// Kill ends the server at once.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Signal sends the server a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Ended reports whether the server has ended, for whatever reason.
func (p *Process) Ended() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Exit is the status with which a server has ended, -1 if that was a signal.
func (p *Process) Exit() int { return p.cmd.ProcessState.ExitCode() }

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Said is the end of what the server logged.
func (p *Process) Said() string { return p.log.String() }

// Dial opens a connection with the server's own default settings.
func (p *Process) Dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+p.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// CPU is the processor time that the process has used: to the nanosecond where the
// kernel counts it so for each thread, which those of a Go program live as long as, or
// else in hundredths of a second.
func (p *Process) CPU() (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.PID()))
	if err != nil || len(threads) == 0 {
		return p.ticks()
	}
	var total int64
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a thread that has just ended
		}
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ") // time on a CPU: Documentation/scheduler/sched-stats.rst
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return time.Duration(total), nil
}

func (p *Process) ticks() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("unexpected /proc/PID/stat")
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime: proc(5)
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ is 100 on every Linux that Go runs on
}

// Memory is the memory of a process in MiB: resident now ("VmRSS"), at most ("VmHWM"),
// or that part of it that is pages of the program's file ("RssFile").
func Memory(pid int, which string) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kib, ok := strings.CutPrefix(lines.Text(), which+":"); ok {
			n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 64)
			return n / 1024, err
		}
	}
	return 0, errors.New("no " + which)
}

// Mallocs is the number of heap objects that the process has allocated.
func (p *Process) Mallocs() (float64, error) { return p.Metric("go_memstats_mallocs_total") }

// Metric is one of its metrics, labels and all.
func (p *Process) Metric(name string) (float64, error) {
	res, err := http.Get("http://" + p.Admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if n, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(n), 64)
		}
	}
	return 0, errors.New("the server does not tell " + name)
}

// FreeAddr is an address on loopback where nobody listens.
func FreeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if len(t.text) > 2*tailSize {
		t.text = append(t.text[:0], t.text[len(t.text)-tailSize:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
