package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// bounds are limits that the system sets to a server.
var bounds = []fault{
	{"memory", "a limit of 256 MiB of memory, under all attacks and junk at once", fewMemory},
	{"files", "a limit of 64 open files, and 1,000 connections", fewFiles},
}

// small is how a server is set up that has little memory: what its connections may hold
// of questions and answers is the product of these.
const small = "limits: { connections: 200, concurrent_streams: 50, requests: 500 }\n"

// CRASH-10: fewMemory has everything at once that could take memory. The kernel ends a server that
// takes too much.
func fewMemory(ctx context.Context, l *lab) (*line, error) {
	const limit = 256 << 20
	group, err := newGroup(limit)
	if err != nil {
		return skipped("a memory cgroup cannot be made: %v", err), nil
	}
	defer group.remove()
	all, err := l.open(ctx, 1, recipe{more: small, under: []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, group.dir}})
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l, replicas: all, questions: l.questions(), patience: 2 * time.Second}
	c, err := newClient(2*time.Second, all[0].launch.GRPC)
	if err != nil {
		return nil, err
	}
	defer c.close()
	raw := withKey("", rig.Path, l.keys[0], allow).raw
	flood := &load{ask: func(ctx context.Context, raw []byte) ([]byte, error) { return c.ask(ctx, spoil(raw)) }, questions: l.rubbish(), rate: 300, tally: &tally{}}
	big := &load{ask: c.ask, questions: []*question{ask("a megabyte", rig.Path+"?"+strings.Repeat("x", 1<<20), map[string]string{"x-api-key": l.keys[0]}, deny)}, rate: 20, tally: &tally{}}
	out, err := s.beside(ctx, "256 MiB of memory, all attacks and junk at once", func(ctx context.Context) string {
		var crowd sync.WaitGroup
		var sent atomic.Int64
		for _, t := range tricks {
			for range 1 + t.connections/4 {
				crowd.Go(func() {
					for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
						_ = attackOnce(ctx, t, all[0].launch.GRPC, raw, &sent)
					}
				})
			}
		}
		crowd.Go(func() { flood.run(ctx) })
		crowd.Go(func() { big.run(ctx) })
		crowd.Wait()
		for _, other := range []*load{flood, big} {
			_, _, wrong, _ := other.tally.counts()
			s.extraWrong += wrong
		}
		return fmt.Sprintf("%d frames by attackers", sent.Load())
	})
	killed, most := group.events()
	if err != nil {
		return nil, fmt.Errorf("%w (the kernel ended %d processes for it; at most %d MiB)", err, killed, most>>20)
	}
	out.want(killed == 0, "the kernel ended it")
	out.remark("limited by %s, at most %d MiB of it used", group.what, most>>20)
	return out, nil
}

// fewFiles lets strangers take all the files that a server may open. Who is connected is
// served on; who is not has to wait until they leave.
func fewFiles(ctx context.Context, l *lab) (*line, error) {
	crowd := 1000
	if l.short {
		crowd = 200
	}
	all, err := l.open(ctx, 1, recipe{under: []string{"sh", "-c", `ulimit -n 64 && exec "$0" "$@"`}})
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l, replicas: all, questions: l.questions()}
	var busy float64
	out, err := s.play(ctx, fmt.Sprintf("64 open files, %d connections", crowd), func(ctx context.Context) error {
		before, err := all[0].cpuOver(s.quiet / 2)
		if err != nil {
			return err
		}
		var conns []net.Conn
		defer func() {
			for _, c := range conns {
				_ = c.Close()
			}
		}()
		for range crowd {
			dialing, cancel := context.WithTimeout(ctx, time.Second)
			c, err := (&net.Dialer{}).DialContext(dialing, "tcp", all[0].launch.GRPC)
			cancel()
			if err != nil {
				break // its backlog is full
			}
			conns = append(conns, c)
		}
		while, err := all[0].cpuOver(max(s.long, time.Second))
		busy = while - before
		return err
	})
	if err != nil {
		return nil, err
	}
	out.want(out.Failed == 0, "%d failed checks of who was connected, none are wanted", out.Failed)
	out.want(busy < .2, "%.0f %% of a processor more than before, less than 20 is wanted", 100*busy)
	out.remark("%.0f %% of a processor more than before", 100*busy)
	return out, nil
}

// cpuOver is the share of a processor that the server takes for a while.
func (r *replica) cpuOver(d time.Duration) (float64, error) {
	before, err := r.CPU()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	time.Sleep(d)
	now, err := r.CPU()
	return (now - before).Seconds() / time.Since(began).Seconds(), err
}

// group is a cgroup with a limit of memory.
type group struct {
	dir, what string
	v2        bool
}

// newGroup makes one where it can.
func newGroup(limit int) (*group, error) {
	var errs []error
	for _, g := range groupPlaces() {
		if err := g.make(limit); err != nil {
			errs = append(errs, err)
			continue
		}
		return g, nil
	}
	return nil, errors.Join(errs...)
}

// groupPlaces are where a group might be made: below that of this process, or at the top.
func groupPlaces() (all []*group) {
	text, _ := os.ReadFile("/proc/self/cgroup")
	name := fmt.Sprintf("postern-faults-%d", os.Getpid())
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, below := range []string{parts[2], "/"} {
			switch parts[1] {
			case "memory":
				all = append(all, &group{dir: filepath.Join("/sys/fs/cgroup/memory", below, name), what: "a cgroup (v1)"})
			case "":
				all = append(all, &group{dir: filepath.Join("/sys/fs/cgroup", below, name), what: "a cgroup (v2)", v2: true})
			}
		}
	}
	return all
}

func (g *group) make(limit int) error {
	file := "memory.limit_in_bytes"
	if g.v2 {
		file = "memory.max"
		_ = os.WriteFile(filepath.Join(filepath.Dir(g.dir), "cgroup.subtree_control"), []byte("+memory"), 0o644)
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(strconv.Itoa(limit)), 0o644); err != nil {
		return errors.Join(err, os.Remove(g.dir))
	}
	return nil
}

// events is how many processes the kernel ended for their memory, and the most that all
// took together.
func (g *group) events() (killed, most int) {
	events, peak := "memory.oom_control", "memory.max_usage_in_bytes"
	if g.v2 {
		events, peak = "memory.events", "memory.peak"
	}
	text, _ := os.ReadFile(filepath.Join(g.dir, events))
	for line := range strings.Lines(string(text)) {
		if n, found := strings.CutPrefix(line, "oom_kill "); found {
			killed, _ = strconv.Atoi(strings.TrimSpace(n))
		}
	}
	text, _ = os.ReadFile(filepath.Join(g.dir, peak))
	most, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	return killed, most
}

// remove ends the group; a process of it may take a moment to end.
func (g *group) remove() {
	for range 100 {
		if os.Remove(g.dir) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
