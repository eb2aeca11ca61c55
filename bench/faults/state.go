package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// state is what the server takes at the moment.
func (r *replica) state() (s state, err error) {
	if s.resident, err = rig.Memory(r.PID(), "VmRSS"); err != nil {
		return s, err
	}
	n, err := r.Metric("go_goroutines")
	if err != nil {
		return s, err
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.PID()))
	s.goroutines, s.files = int(n), len(files)
	return s, err
}

// near reports whether the server takes no more than it did.
func (s *state) near(now state) bool { return now.goroutines <= s.goroutines+20 }

// highest is the most that the server takes until ctx ends. What cannot be asked is left
// out: its admin listener may be busy too.
func (r *replica) highest(ctx context.Context) (most state) {
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if m, err := rig.Memory(r.PID(), "VmRSS"); err == nil {
			most.resident = max(most.resident, m)
		}
		if s, err := r.state(); err == nil {
			most.goroutines, most.files = max(most.goroutines, s.goroutines), max(most.files, s.files)
		}
	}
	return most
}

// settle is what the server takes when it has given back what it took, or had a few seconds
// to do so.
func (r *replica) settle(ctx context.Context, base *state) (least state) {
	for began := time.Now(); time.Since(began) < 5*time.Second && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		s, err := r.state()
		if err != nil {
			continue
		}
		if least.goroutines == 0 || s.goroutines < least.goroutines {
			least = s
		}
		if base.near(least) {
			break
		}
	}
	return least
}
