package main

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
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// lab holds what one run of the benchmark needs: binaries, fixture, processes.
type lab struct {
	dir            string
	postern, stock string // binaries
	fixture        *fixture
}

func newLab(ctx context.Context) (*lab, error) {
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, postern: filepath.Join(dir, "postern"), stock: filepath.Join(dir, "stock")}
	if err := l.furnish(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// fewKeys is the number of keys where it is not what is measured.
const fewKeys = 10

// furnish builds the binaries and writes the fixture.
func (l *lab) furnish(ctx context.Context) (err error) {
	for binary, pkg := range map[string]string{l.postern: "./cmd/postern", l.stock: "./bench/stock"} {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, pkg)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	l.fixture, err = newFixture(filepath.Join(l.dir, "fixture"), fewKeys)
	return err
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

func (l *lab) binaryMiB() (float64, error) {
	info, err := os.Stat(l.postern)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()) / (1 << 20), nil
}

// process is a server under test.
type process struct {
	cmd     *exec.Cmd
	log     bytes.Buffer
	grpc    string
	metrics string
	started time.Time
}

// start runs a server and waits until it takes connections.
func start(ctx context.Context, binary string, args func(grpcAddr, httpAddr string) []string) (*process, error) {
	p := &process{grpc: freeAddr(), metrics: freeAddr()}
	p.cmd = exec.CommandContext(ctx, binary, args(p.grpc, p.metrics)...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		if c, err := net.Dial("tcp", p.grpc); err == nil {
			_ = c.Close()
			return p, nil
		}
	}
	p.stop()
	return nil, fmt.Errorf("%s does not listen:\n%s", filepath.Base(binary), p.log.String())
}

func (l *lab) startStock(ctx context.Context) (*process, error) {
	return start(ctx, l.stock, func(g, h string) []string { return []string{"-grpc", g, "-http", h} })
}

func (l *lab) startPostern(ctx context.Context, f *fixture) (*process, error) {
	return start(ctx, l.postern, func(g, h string) []string { return []string{"serve", "-c", f.config(g, h)} })
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
	}
}

// dial opens a connection with the server's own default settings.
func (p *process) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// cpu is the processor time that the process has used.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
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

// usage is what a process has used since its start.
type usage struct {
	cpu     time.Duration
	mallocs float64
}

func (p *process) usage() (u usage, err error) {
	if u.cpu, err = p.cpu(); err != nil {
		return u, err
	}
	u.mallocs, err = p.mallocs()
	return u, err
}

// rss is the resident memory in MiB.
func (p *process) rss() (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kib, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 64)
			return n / 1024, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// mallocs is the number of heap objects that the process has allocated.
func (p *process) mallocs() (float64, error) {
	res, err := http.Get("http://" + p.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if n, ok := strings.CutPrefix(line, "go_memstats_mallocs_total "); ok {
			return strconv.ParseFloat(strings.TrimSpace(n), 64)
		}
	}
	return 0, errors.New("the server does not tell its allocations")
}

// freeAddr is an address on loopback where nobody listens.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}
