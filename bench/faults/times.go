package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// times is what happens to clocks, and in an hour.
var times = []fault{
	{"clock-fast", "the server's clock is an hour fast, and then set right", func(ctx context.Context, l *lab) (*line, error) { return l.wrongClock(ctx, time.Hour) }},
	{"clock-slow", "the server's clock is an hour slow, and then set right", func(ctx context.Context, l *lab) (*line, error) { return l.wrongClock(ctx, -time.Hour) }},
	{"issuer", "the issuer is dead for an hour of the server's time", deadIssuer},
}

// shifting is a server's clock. Questions are asked while it stands still only: a
// question under way would last an hour.
type shifting struct {
	*rig.Clock
	gate *sync.RWMutex

	mu  sync.Mutex
	off time.Duration // of the wall clock
}

func (c *shifting) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

// move moves the wall clock by so much, and lets time pass.
func (c *shifting) move(wall, pass time.Duration) error {
	c.gate.Lock()
	defer c.gate.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Pass(pass); err != nil {
		return err
	}
	c.off += wall + pass
	return c.Set(c.off)
}

// leeway is more than what the server forgives between clocks: so close to its ends, a
// token may be good or not.
const leeway = 90 * time.Second

// token asks with a token that is good from and until some time from now, by the
// server's clock.
func (c *shifting) token(l *lab, name string, from, until time.Duration) *question {
	begin, end := time.Now().Add(from), time.Now().Add(until)
	q := bearer(name, rig.Path, l.issuer.token(name, from, until), deny)
	q.right = func() want {
		now := c.now()
		switch {
		case now.After(begin.Add(leeway)) && now.Before(end.Add(-leeway)):
			return allow
		case now.Before(begin.Add(-leeway)) || now.After(end.Add(leeway)):
			return deny
		}
		return either
	}
	return q
}

// withClock starts a server and takes its clock.
func (l *lab) withClock(ctx context.Context, r recipe) (*scene, *shifting, error) {
	all, err := l.open(ctx, 1, r)
	if err != nil {
		return nil, nil, err
	}
	s := &scene{lab: l, replicas: all, gate: &sync.RWMutex{}, questions: l.questions()}
	clock, err := rig.ClockOf(all[0].PID())
	if err != nil {
		stopAll(all)
		return nil, nil, err
	}
	return s, &shifting{Clock: clock, gate: s.gate}, nil
}

// wrongClock sets a server's wall clock off by so much, and then right again. Tokens are
// good by the clock that the server has at that moment; what it remembers from before
// must not change that. Keys have no such times and work on.
func (l *lab) wrongClock(ctx context.Context, off time.Duration) (*line, error) {
	s, clock, err := l.withClock(ctx, recipe{})
	if err != nil {
		return skipped("%v", err), nil
	}
	defer clock.Close()
	s.questions = []*question{
		withKey("a good key", rig.Path, l.keys[0], allow),
		withKey("an unknown key", rig.Path, unknownKey(), deny),
		clock.token(l, "a token for hours", -4*time.Hour, 4*time.Hour),
		clock.token(l, "a token for ten minutes", -10*time.Minute, 10*time.Minute),
		clock.token(l, "a token that expired half an hour ago", -2*time.Hour, -30*time.Minute),
		clock.token(l, "a token that begins in half an hour", 30*time.Minute, 2*time.Hour),
		bearer("a token by a stranger", rig.Path, l.stranger.sign(l.issuer.body("stranger", -4*time.Hour, day)), deny),
	}
	if !l.short {
		s.tail = 22 * time.Second // longer than what a server waits for a peer that does not read
	}
	what := "fast"
	if off < 0 {
		what = "slow"
	}
	out, err := s.play(ctx, fmt.Sprintf("the clock of the server %v %s", off.Abs(), what), func(context.Context) error {
		if err := clock.move(off, 0); err != nil {
			return err
		}
		time.Sleep(s.long)
		return clock.move(-off, 0)
	})
	if err != nil {
		return nil, err
	}
	out.want(out.Failed == 0, "%d failed checks, none are wanted", out.Failed)
	out.remark("its process's own clock was moved")
	return out, nil
}

// deadIssuer lets an hour pass in a server while its issuer answers nothing. Tokens that
// were signed with keys it knows work on; those with a key that it never saw do not,
// until the issuer is back.
func deadIssuer(ctx context.Context, l *lab) (*line, error) {
	const step, all = 10 * time.Second, time.Hour
	s, clock, err := l.withClock(ctx, recipe{})
	if err != nil {
		return skipped("%v", err), nil
	}
	defer clock.Close()
	defer l.issuer.dead.Store(false)
	s.questions = append(s.questions, clock.token(l, "a token for hours", -time.Hour, 4*time.Hour), clock.token(l, "a token for half an hour", -time.Minute, 30*time.Minute))
	before := l.issuer.asked.Load()
	var failedKeys, lateKey int
	out, err := s.play(ctx, "the issuer dead for an hour of the server's time", func(ctx context.Context) error {
		l.issuer.dead.Store(true)
		l.issuer.rotate()
		fresh := bearer("a token with a key that it never saw", rig.Path, l.issuer.token("new", 0, day), allow)
		scratch := &tally{}
		asks := &load{ask: s.client.ask, tally: scratch}
		for passed := time.Duration(0); passed < all; passed += step {
			if err := clock.move(0, step); err != nil {
				return err
			}
			if passed%(time.Minute) == 0 && asks.one(ctx, fresh) == failed {
				failedKeys++
			}
			time.Sleep(s.long / (all / step))
		}
		l.issuer.dead.Store(false)
		s.lift()
		// It asks again when its cooldown is over, which passes too.
		for asks.one(ctx, fresh) != rightAnswer && ctx.Err() == nil && lateKey < 120 {
			if err := clock.move(0, time.Second); err != nil {
				return err
			}
			lateKey++
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.want(out.Failed == 0, "%d failed checks, none are wanted", out.Failed)
	out.want(lateKey <= 60, "%d s after the issuer was back its new key was not known", lateKey)
	out.remark("tokens with a new key were denied %d times meanwhile, and worked %d s of its time after the issuer was back; it was asked %d times", failedKeys, lateKey, l.issuer.asked.Load()-before)
	return out, nil
}
