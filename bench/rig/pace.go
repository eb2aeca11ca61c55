package rig

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Pace is an open loop: each question is sent when it is due, whether those before it
// are answered or not, as many clients that know nothing of each other do. A closed
// loop asks less while the server is slow, and so leaves out what would have been the
// worst.
type Pace struct {
	Rate int // questions a second
	For  time.Duration
	// Look says what is wrong with an answer; nil is satisfied with an allow.
	Look func(answer []byte) error
}

// Seen is what clients saw. A question that failed has a latency too.
type Seen struct {
	// Latencies count from when a question was due, in microseconds. What the client is
	// late itself, because the machine is busy, is in them.
	Latencies []float64
	// Late is how late the client sent, in microseconds.
	Late     []float64
	Failures Failures
}

// Add takes what was seen in another turn.
func (s *Seen) Add(other *Seen) {
	s.Latencies, s.Late = append(s.Latencies, other.Latencies...), append(s.Late, other.Late...)
	s.Failures.Add(&other.Failures)
}

// Failures counts answers that are wrong, and keeps the first.
type Failures struct {
	mu    sync.Mutex
	n     int
	first error
}

// Note counts an error; nil is none.
func (f *Failures) Note(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.n == 1 {
		f.first = err
	}
}

// Add takes those of another turn.
func (f *Failures) Add(other *Failures) {
	n, first := other.Count()
	f.Note(first)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n += max(0, n-1)
}

// Count is how many there were, and the first.
func (f *Failures) Count() (n int, first error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n, f.first
}

// Allowed says what is wrong with an answer that is no allow.
func Allowed(answer []byte) error {
	if IsAllow(answer) {
		return nil
	}
	var res authv3.CheckResponse
	if err := proto.Unmarshal(answer, &res); err != nil {
		return err
	}
	return fmt.Errorf("the answer is no allow, but %s: %v", Reason(&res), &res)
}

// Reason is the reason that an answer of Postern's names in its metadata; empty if it
// names none.
func Reason(res *authv3.CheckResponse) string {
	return res.GetDynamicMetadata().GetFields()["postern"].GetStructValue().GetFields()["reason"].GetStringValue()
}

// Each calls do for each question when it is due, the n-th with n, one after the other,
// until the time is over or ctx ends. For is no bound if it is zero. What do begins it
// must not wait for.
func (p Pace) Each(ctx context.Context, do func(n int, due time.Time)) {
	runtime.LockOSThread() // for nap
	defer runtime.UnlockOSThread()
	begin := time.Now()
	for n := 0; p.For == 0 || n < p.count(); n++ {
		due := begin.Add(time.Duration(n) * time.Second / time.Duration(p.Rate))
		if early := time.Until(due); early > 0 {
			nap(early)
		}
		if ctx.Err() != nil {
			return
		}
		do(n, due)
	}
}

func (p Pace) count() int { return int(p.For.Seconds() * float64(p.Rate)) }

// Drive asks the requests in turns.
func (p Pace) Drive(ctx context.Context, conns []*grpc.ClientConn, requests [][]byte) (*Seen, error) {
	look := p.Look
	if look == nil {
		look = Allowed
	}
	all := p.count()
	if all == 0 {
		return nil, fmt.Errorf("%d questions a second for %v are none", p.Rate, p.For)
	}
	seen := &Seen{Latencies: make([]float64, all), Late: make([]float64, all)}
	var asking sync.WaitGroup
	p.Each(ctx, func(i int, due time.Time) {
		seen.Late[i] = float64(max(0, time.Since(due))) / 1e3
		asking.Go(func() {
			var out []byte
			err := Call(ctx, conns[i%len(conns)], requests[i%len(requests)], &out)
			seen.Latencies[i] = float64(time.Since(due)) / 1e3
			if err == nil {
				err = look(out)
			}
			seen.Failures.Note(err)
		})
	})
	asking.Wait()
	return seen, ctx.Err()
}
