package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// line is what one fault came to.
type line struct {
	Fault string `json:"fault"`
	// Did is what was done.
	Did string `json:"did"`
	// Seconds is for how long the fault lasted.
	Seconds float64 `json:"seconds"`
	// Asked is how many honest questions there were, WrongAllows how many answers let in
	// who ought to be denied, and Failed how many questions got no right answer.
	Asked       int `json:"asked"`
	WrongAllows int `json:"wrong_allows"`
	Failed      int `json:"failed"`
	// Recovered is how long after the fault was lifted all answers were right again, in
	// seconds.
	Recovered float64 `json:"recovered_seconds"`
	// Gateway is which one failed open, GatewayAsked how often it was asked, and Leaks how
	// often it let something through that ought to be denied.
	Gateway      string `json:"gateway"`
	GatewayAsked int    `json:"gateway_asked"`
	Leaks        int    `json:"leaks"`
	// LoadAverage is that of the machine when the trial began.
	LoadAverage string      `json:"load_average"`
	Verdict     rig.Verdict `json:"verdict"`
	// Goals that were missed, and what else was seen.
	Missed []string `json:"missed,omitempty"`
	Remark string   `json:"remark,omitempty"`
}

// String is the line as it is printed.
func (l *line) String() string {
	if l.Verdict == rig.Skipped {
		return fmt.Sprintf("%-12s %-7s %s", l.Fault, l.Verdict, l.Remark)
	}
	text := fmt.Sprintf("%-12s %-7s %s, for %.1f s: wrong allows %d, failed checks %d of %d, recovered in %.2f s; %s wrongly let through %d of %d",
		l.Fault, l.Verdict, l.Did, l.Seconds, l.WrongAllows, l.Failed, l.Asked, l.Recovered, l.Gateway, l.Leaks, l.GatewayAsked)
	for _, m := range l.Missed {
		text += "; MISSED: " + m
	}
	if l.Remark != "" {
		text += "; " + l.Remark
	}
	return text + "; load " + l.LoadAverage
}

// judge says what the line means.
func (l *line) judge() {
	switch {
	case l.WrongAllows+l.Leaks > 0:
		l.Verdict = rig.Broken
	case len(l.Missed) > 0:
		l.Verdict = rig.Missed
	default:
		l.Verdict = rig.Kept
	}
}

// want notes a goal that may be missed.
func (l *line) want(reached bool, format string, args ...any) {
	if !reached {
		l.Missed = append(l.Missed, fmt.Sprintf(format, args...))
	}
}

func (l *line) remark(format string, args ...any) {
	l.Remark = strings.TrimPrefix(l.Remark+"; "+fmt.Sprintf(format, args...), "; ")
}

func skipped(format string, args ...any) *line {
	return &line{Verdict: rig.Skipped, Remark: fmt.Sprintf(format, args...)}
}

// scene is a trial while it goes on.
type scene struct {
	*lab
	replicas  []*replica
	questions []*question
	// targets are those of the replicas that the honest load asks; nil is all of them, as
	// the gateway does.
	targets []*replica
	// also are other loads, whose wrong allows count too.
	also []*load
	// rate is that of the honest load; 0 for the setting.
	rate int
	// patience is how long the client waits for one server.
	patience time.Duration
	// tail is how long it is watched after the fault, at least.
	tail time.Duration
	// gate, if set, keeps questions from being under way while it is locked.
	gate *sync.RWMutex

	client *client
	tally  tally // of the honest load
	gw     tally // of the gateway
	lifted atomic.Pointer[time.Time]
	// started is when the load began, and began when the fault did.
	started, began time.Time
	// base is what the first server took before the fault, if it is to be held to that, and
	// settled what it takes when all is over.
	base       *state
	settled    state
	extraWrong int // wrong allows that others than the honest had
}

// lift notes that the fault is over.
func (s *scene) lift() {
	now := time.Now()
	if s.lifted.CompareAndSwap(nil, &now) {
		s.enter(after)
	}
}

func (s *scene) enter(p phase) {
	s.tally.enter(p)
	s.gw.enter(p)
	for _, l := range s.also {
		l.tally.enter(p)
	}
}

// play keeps up an honest load and a gateway that fails open, has the fault happen, and
// says what that came to. The fault is over when do lifts it or returns.
func (s *scene) play(ctx context.Context, did string, do func(context.Context) error) (*line, error) {
	defer func() { stopAll(s.replicas) }()
	gate, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { s.client.close(); gate.close() }()
	if err := s.agree(ctx, gate); err != nil {
		return nil, err
	}
	out := &line{Did: did, Gateway: gate.what, LoadAverage: loadAverage()}
	stop := s.load(ctx, gate)
	defer stop()
	time.Sleep(s.quiet)
	s.began = time.Now()
	s.enter(during)
	err = do(ctx)
	s.lift()
	lifted := *s.lifted.Load()
	var recovered time.Duration
	var lost error
	if err == nil {
		recovered, err = s.recover(ctx, lifted)
	}
	if errors.Is(err, errLost) {
		lost, err = err, nil
	}
	if err == nil && s.base != nil {
		s.settled = s.replicas[0].settle(ctx, s.base)
	}
	stop()
	if err != nil {
		return nil, err
	}
	_, _, _, last := s.tally.counts()
	out.Seconds, out.Recovered = lifted.Sub(s.began).Seconds(), max(recovered, last.Sub(lifted), 0).Seconds()
	out.want(lost == nil, "%v", lost)
	s.count(out)
	if out.Leaks > 0 {
		out.remark("%s counted %s", gate.what, gate.tell())
	}
	return out, nil
}

// connect makes the client and the gateway.
func (s *scene) connect(ctx context.Context) (*gateway, error) {
	if s.rate == 0 {
		s.rate = s.settings.rate
	}
	if s.patience == 0 {
		s.patience = time.Second
	}
	if s.targets == nil {
		s.targets = s.replicas
	}
	var err error
	if s.client, err = newClient(s.patience, addresses(s.targets)...); err != nil {
		return nil, err
	}
	gate, err := s.startGateway(ctx, addresses(s.replicas)...)
	if err != nil {
		s.client.close()
	}
	return gate, err
}

func addresses(all []*replica) (where []string) {
	for _, r := range all {
		where = append(where, r.launch.GRPC)
	}
	return where
}

// load begins all that is asked besides the fault. The returned function ends it and
// waits for the last answer; it can be called again.
func (s *scene) load(ctx context.Context, gate *gateway) (stop func()) {
	s.started = time.Now()
	loading, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		(&load{ask: s.client.ask, questions: s.questions, rate: s.rate, tally: &s.tally, gate: s.gate}).run(loading)
	})
	for _, l := range s.also {
		all.Go(func() { l.run(loading) })
	}
	for i := range gatewayCallers {
		all.Go(func() { s.knock(loading, gate, i) })
	}
	return func() { cancel(); all.Wait() }
}

// count fills in what was counted, and explains it.
func (s *scene) count(out *line) {
	out.Asked, out.Failed, out.WrongAllows, _ = s.tally.counts()
	out.GatewayAsked, _, out.Leaks, _ = s.gw.counts()
	for _, l := range s.also {
		_, _, wrong, _ := l.tally.counts()
		out.WrongAllows += wrong
	}
	s.describe(out)
}

// describe adds what explains the figures.
func (s *scene) describe(out *line) {
	if s.tally.first != nil {
		out.remark("first failure: %v", s.tally.first)
	}
	tallies := []*tally{&s.tally, &s.gw}
	for _, l := range s.also {
		tallies = append(tallies, l.tally)
	}
	for _, t := range tallies {
		if t.worst != nil {
			out.remark("%v", t.worst)
		}
	}
	if before := s.tally.failed[quiet]; before > 0 {
		out.remark("%d of the failed before the fault", before)
	}
	if n := s.client.retried.Load(); n > 0 {
		out.remark("asked elsewhere %d times", n)
	}
	out.remark("p99 %v, quiet %v", s.tally.quantile(during, .99).Round(time.Microsecond), s.tally.quantile(quiet, .99).Round(time.Microsecond))
}

// agree asks everything once before anything happens, in both ways: an oracle that is
// wrong, or a gateway that denies everything, would prove nothing.
func (s *scene) agree(ctx context.Context, g *gateway) error {
	for _, q := range s.questions {
		var allowed, through bool
		var err error
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			var answer []byte
			if answer, err = s.client.ask(ctx, q.raw); err == nil {
				allowed = rig.IsAllow(answer)
				through, err = g.through(ctx, q)
			}
			right := q.right()
			if err == nil && (right == either || allowed == (right == allow) && through == allowed) {
				break
			}
			if time.Now().After(deadline) || ctx.Err() != nil {
				return fmt.Errorf("before any fault, %s: allowed %v, let through %v, %w; %s", q.name, allowed, through, err, s.replicas[0].Said())
			}
		}
	}
	return nil
}

// gatewayCallers is how many ask the gateway at once, and knocking how long each waits
// between two requests.
const (
	gatewayCallers = 4
	knocking       = 20 * time.Millisecond
)

// knock asks the gateway over and over.
func (s *scene) knock(ctx context.Context, g *gateway, n int) {
	for i := n * 7; ctx.Err() == nil; i++ {
		q := s.questions[i%len(s.questions)]
		if s.gate != nil {
			s.gate.RLock()
		}
		asked, sent := q.right(), time.Now()
		through, err := g.through(context.WithoutCancel(ctx), q)
		s.gw.note(q, judge(asked, q.right(), through, err), sent, err)
		if s.gate != nil {
			s.gate.RUnlock()
		}
		time.Sleep(knocking)
	}
}

// errLost says that a server never answered right again.
var errLost = errors.New("it does not recover")

// recover waits until each replica answers everything right, asked directly, and
// nothing has failed for a while.
func (s *scene) recover(ctx context.Context, lifted time.Time) (time.Duration, error) {
	var took time.Duration
	for _, r := range s.replicas {
		one, err := newClient(time.Second, r.launch.GRPC)
		if err != nil {
			return 0, err
		}
		defer one.close()
		scratch := &tally{}
		asks := &load{ask: one.ask, tally: scratch}
		for deadline := lifted.Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			began, right := time.Now(), true
			for _, q := range s.questions {
				right = right && asks.one(ctx, q) == rightAnswer
			}
			if right {
				took = max(took, began.Sub(lifted))
				break
			}
			if time.Now().After(deadline) || ctx.Err() != nil {
				return time.Since(lifted), fmt.Errorf("%w: %w", errLost, scratch.first)
			}
		}
	}
	for {
		_, _, _, last := s.tally.counts()
		if wait := time.Until(later(lifted, last).Add(max(s.tail, s.calm))); wait <= 0 || ctx.Err() != nil || time.Since(lifted) > time.Minute {
			return took, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// loadAverage is that of the last minute, by the kernel.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
