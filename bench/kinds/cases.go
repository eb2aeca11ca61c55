package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"github.com/postern-auth/postern/bench/rig"
)

// testCase is what attackers or an unlucky moment do.
type testCase struct {
	name string
	run  func(context.Context, *world, *report) error
}

var cases = []testCase{
	{"random-kids", randomKids},
	{"one-flight", oneFlight},
	{"basic-flood", basicFlood},
}

// tally counts answers by their HTTP status.
type tally struct {
	mu     sync.Mutex
	status map[int]int
	failed error // the first call without an answer
}

func (t *tally) note(res *authv3.CheckResponse, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		t.failed = errors.Join(t.failed, err)
	case rig.Allows(res):
		t.status[200]++
	default:
		t.status[int(res.GetDeniedResponse().GetStatus().GetCode())]++
	}
}

// only reports whether there are n answers, all of these statuses.
func (t *tally) only(n int, statuses ...int) bool {
	found := 0
	for _, s := range statuses {
		found += t.status[s]
	}
	total := 0
	for _, count := range t.status {
		total += count
	}
	return t.failed == nil && found == n && total == n
}

func (t *tally) String() string {
	var all []string
	for _, status := range slices.Sorted(maps.Keys(t.status)) {
		all = append(all, fmt.Sprintf("%d × %d", t.status[status], status))
	}
	if t.failed != nil {
		all = append(all, "no answer: "+t.failed.Error())
	}
	return strings.Join(all, ", ")
}

// ask sends requests, so many at once, over so many connections of their own.
func (w *world) ask(ctx context.Context, requests [][]byte, atOnce, connections int) (*tally, error) {
	conns, err := dialAll(w.postern, connections)
	if err != nil {
		return nil, err
	}
	for _, c := range conns {
		defer c.Close()
		if err := rig.Verify(ctx, c, with("x-nothing", "here"), false); err != nil { // now it is open
			return nil, err
		}
	}
	t := &tally{status: map[int]int{}}
	var next atomic.Int64
	var group sync.WaitGroup
	begin := make(chan struct{})
	for i := range atOnce {
		group.Go(func() {
			<-begin
			for n := int(next.Add(1) - 1); n < len(requests); n = int(next.Add(1) - 1) {
				t.note(rig.Ask(ctx, conns[i%len(conns)], requests[n]))
			}
		})
	}
	close(begin)
	group.Wait()
	return t, ctx.Err()
}

// randomKids sends tokens of the issuer whose kid nobody knows.
func randomKids(ctx context.Context, w *world, r *report) error {
	const tokens, atOnce = 10_000, 64
	requests, err := parallel(tokens, func(i int) ([]byte, error) {
		stranger := w.issuer.ed
		stranger.kid = rand.Text()
		return bearer(w.issuer.token(stranger, fmt.Sprint("user-", i), nil)), nil
	})
	if err != nil {
		return err
	}
	good, err := w.goodTokens(2000)
	if err != nil {
		return err
	}
	meanwhile := watch(ctx, w.asks[0], good)
	before, begin := w.issuer.fetched.Load(), time.Now()
	answers, err := w.ask(ctx, requests, atOnce, connections)
	took := time.Since(begin)
	if err := errors.Join(err, meanwhile.stop()); err != nil {
		return err
	}
	fetches, limit := w.issuer.fetched.Load()-before, int64(took/cooldown)+1
	r.add(row{
		name: "random-kids", what: "one fetch per cooldown", asked: fmt.Sprintf("%d tokens in %.1f s", tokens, took.Seconds()),
		limit: fmt.Sprintf("%d (cooldown %v), at least 1", limit, cooldown), figure: fmt.Sprintf("%d fetches", fetches), kept: fetches >= 1 && fetches <= limit,
	})
	r.add(row{
		name: "random-kids", what: "each refused, none allowed", asked: fmt.Sprint(tokens), limit: "401 only", figure: answers.String(), kept: answers.only(tokens, 401),
		remark: fmt.Sprintf("%.0f a second; good tokens meanwhile: %s", tokens/took.Seconds(), meanwhile),
	})
	return nil
}

// oneFlight has many callers bring the same token, which nobody has seen, at once. The
// issuer takes its time, so that all of them are there before it answers.
func oneFlight(ctx context.Context, w *world, r *report) error {
	const atOnce, conns, pause = 1000, 4, 200 * time.Millisecond
	request := bearer(w.issuer.opaque("everybody"))
	w.issuer.slow.Store(int64(pause))
	defer w.issuer.slow.Store(0)
	before, begin := w.issuer.asked.Load(), time.Now()
	answers, err := w.ask(ctx, slices.Repeat([][]byte{request}, atOnce), atOnce, conns)
	if err != nil {
		return err
	}
	took, asked := time.Since(begin), w.issuer.asked.Load()-before
	r.add(row{
		name: "one-flight", what: "one introspection", asked: fmt.Sprintf("%d callers, one cold token", atOnce), limit: "1", figure: fmt.Sprint(asked),
		kept: asked == 1, remark: fmt.Sprintf("all answered after %d ms, the issuer after %v", took.Milliseconds(), pause),
	})
	r.add(row{name: "one-flight", what: "each allowed", asked: fmt.Sprint(atOnce), limit: "200 only", figure: answers.String(), kept: answers.only(atOnce, 200)})
	return nil
}

const (
	// floodMemory is how much memory a flood of logins may take of a server that has just
	// started, in MiB, and hashMemory how much more for each that is hashed at once: its
	// own 19 MiB and those of the one before. Without a bound a thousand need 19 GiB.
	floodMemory = 90
	hashMemory  = 2 * 19
	// slower is how many times as long checks of JWTs may take meanwhile.
	slower = 2
	// waves come one after another, so that there is something to see.
	waves = 3
)

// basicFlood logs in with wrong passwords, each another user's from another address, so
// that no lock saves the server the work.
func basicFlood(ctx context.Context, w *world, r *report) error {
	const atOnce, conns = 1000, 4
	if err := w.relaunch(ctx); err != nil {
		return err
	}
	good, err := w.goodTokens(12_000)
	if err != nil {
		return err
	}
	quiet := w.watchBoth(ctx, good[:2000])
	time.Sleep(1500 * time.Millisecond)
	if err := quiet.stop(); err != nil {
		return err
	}
	before, err := rig.Memory(w.postern.PID(), "VmRSS")
	if err != nil {
		return err
	}
	answers, began := &tally{status: map[int]int{}}, time.Now()
	memory, busy := w.watchMemory(), w.watchBoth(ctx, good[2000:])
	for wave := range waves {
		requests, err := parallel(atOnce, func(i int) ([]byte, error) {
			login := basicLogin(fmt.Sprintf("nobody-%d-%d", wave, i), fmt.Sprint("guess ", i))
			return rig.Request(map[string]string{"authorization": login}, rig.From(fmt.Sprintf("198.18.%d.%d", wave*10+i/200, 1+i%200))), nil
		})
		if err != nil {
			return err
		}
		some, err := w.ask(ctx, requests, atOnce, conns)
		if err != nil {
			return err
		}
		for status, n := range some.status {
			answers.status[status] += n
		}
		answers.failed = errors.Join(answers.failed, some.failed)
	}
	took := time.Since(began)
	peak := memory()
	if err := busy.stop(); err != nil {
		return err
	}
	after, err := rig.Memory(w.postern.PID(), "VmRSS")
	if err != nil {
		return err
	}
	limit := float64(floodMemory + hashMemory*max(1, runtime.NumCPU()/2)) // basic.workers by default
	asked := fmt.Sprintf("%d × %d logins in %.1f s", waves, atOnce, took.Seconds())
	r.add(row{
		name: "basic-flood", what: "memory bounded", asked: asked, limit: fmt.Sprintf("%.0f MiB more", limit), figure: fmt.Sprintf("%.0f MiB more", peak-before),
		kept: peak-before <= limit, remark: fmt.Sprintf("resident before %.0f, at most %.0f, after %.0f MiB", before, peak, after),
	})
	r.add(row{name: "basic-flood", what: "each refused or turned away", asked: asked, limit: "401 and 503 only", figure: answers.String(), kept: answers.only(waves*atOnce, 401, 503)})
	compareFlood(r, "JWTs seen before", quiet, busy, func(x *watcher) []float64 { return x.known })
	compareFlood(r, "JWTs not seen before", quiet, busy, func(x *watcher) []float64 { return x.fresh })
	return nil
}

// compareFlood holds checks of JWTs during a flood against those before. The promise is
// about the typical check. That a single one now and then waits for a processor is a
// goal: what the stock server beside it suffers, which has nothing to do with logins, is
// the machine's share of it.
func compareFlood(r *report, what string, quiet, busy *both, of func(*watcher) []float64) {
	for _, x := range []struct {
		name   string
		figure func([]float64) float64
		goal   bool
	}{
		{"p50", func(v []float64) float64 { return rig.Quantile(v, .5) }, false},
		{"mean", mean, true},
		{"p99", func(v []float64) float64 { return rig.Quantile(v, .99) }, true},
	} {
		before, during := x.figure(of(quiet.postern)), x.figure(of(busy.postern))
		stockBefore, stockDuring := x.figure(of(quiet.stock)), x.figure(of(busy.stock))
		r.add(row{
			name: "basic-flood", what: what + ", " + x.name, asked: fmt.Sprintf("%d and %d checks", len(of(quiet.postern)), len(of(busy.postern))),
			limit: fmt.Sprintf("%d × %.0f µs", slower, before), figure: fmt.Sprintf("%.2f × (%.0f µs)", during/before, during), kept: during <= slower*before, goal: x.goal,
			remark: fmt.Sprintf("the stock server beside it %.2f × (%.0f µs)", stockDuring/stockBefore, stockDuring),
		})
	}
}

// both are watchers of the server and of the stock server.
type both struct{ postern, stock *watcher }

func (w *world) watchBoth(ctx context.Context, tokens [][]byte) *both {
	return &both{watch(ctx, w.asks[0], tokens), watch(ctx, w.against[0], tokens)}
}

func (b *both) stop() error { return errors.Join(b.postern.stop(), b.stock.stop()) }

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(max(1, len(v)))
}

// goodTokens makes requests with tokens of the issuer, each another.
func (w *world) goodTokens(n int) ([][]byte, error) {
	return parallel(n, func(int) ([]byte, error) { return bearer(w.issuer.token(w.issuer.ed, "good "+rand.Text(), nil)), nil })
}

// watcher checks good tokens at a steady pace while something else goes on: one that is
// known, and each time one that is not.
type watcher struct {
	known, fresh []float64 // latencies in microseconds
	wrong        error
	cancel       context.CancelFunc
	done         chan struct{}
}

// pace is the time between two checks of each sort.
const pace = time.Millisecond

// watch begins. Each request serves once; when they are used up, it waits to be stopped.
func watch(ctx context.Context, conn *grpc.ClientConn, tokens [][]byte) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	x := &watcher{cancel: cancel, done: make(chan struct{})}
	// Requests that have begun are not cancelled: their answers count.
	check := func(request []byte, to *[]float64) error {
		var out []byte
		begin := time.Now()
		err := rig.Call(context.WithoutCancel(ctx), conn, request, &out)
		*to = append(*to, float64(time.Since(begin))/1e3)
		if err == nil && !rig.IsAllow(out) {
			err = fmt.Errorf("a good token is refused: %q", out)
		}
		return err
	}
	go func() {
		defer close(x.done)
		for _, token := range tokens {
			if ctx.Err() != nil || x.wrong != nil {
				return
			}
			if x.wrong = check(token, &x.fresh); x.wrong == nil {
				x.wrong = check(token, &x.known)
			}
			time.Sleep(pace)
		}
	}()
	return x
}

// stop ends it, and says what was wrong.
func (x *watcher) stop() error {
	x.cancel()
	<-x.done
	if x.wrong == nil && len(x.known) == 0 {
		return errors.New("no good token was checked meanwhile")
	}
	return x.wrong
}

func (x *watcher) String() string {
	return fmt.Sprintf("%d, all allowed, p50 %.0f µs, p99 %.0f µs", len(x.known), rig.Quantile(x.known, .5), rig.Quantile(x.known, .99))
}

// watchMemory looks at the server's memory until it is called off, and then returns the
// most that it saw, in MiB.
func (w *world) watchMemory() (stop func() float64) {
	ended, most := make(chan struct{}), make(chan float64)
	go func() {
		peak := 0.0
		for {
			now, err := rig.Memory(w.postern.PID(), "VmRSS")
			if err == nil {
				peak = max(peak, now)
			}
			select {
			case <-ended:
				most <- peak
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() float64 { close(ended); return <-most }
}
