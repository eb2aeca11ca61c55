package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// crashes are what happens to a server's process.
var crashes = []fault{
	{"kill", "kill -9 of one of three replicas, which is then started again", killOne},
	{"stop", "SIGSTOP of one of three replicas, then SIGCONT", stopOne},
	{"term", "SIGTERM of one of three replicas after the other, under load", terminate},
	{"rolling", "a rolling restart: each of three replicas stopped, started, and waited for", rolling},
}

const trio = 3

func (l *lab) trio(ctx context.Context) (*scene, error) {
	all, err := l.open(ctx, trio, recipe{})
	return &scene{lab: l, replicas: all, questions: l.questions()}, err
}

func killOne(ctx context.Context, l *lab) (*line, error) {
	s, err := l.trio(ctx)
	if err != nil {
		return nil, err
	}
	return s.play(ctx, "kill -9 of one of three replicas", func(ctx context.Context) error {
		s.replicas[0].Kill()
		time.Sleep(l.long)
		s.lift()
		return s.replicas[0].start(ctx)
	})
}

func stopOne(ctx context.Context, l *lab) (*line, error) {
	s, err := l.trio(ctx)
	if err != nil {
		return nil, err
	}
	return s.play(ctx, "SIGSTOP of one of three replicas", func(context.Context) error {
		if err := s.replicas[0].Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		time.Sleep(l.long)
		return s.replicas[0].Signal(syscall.SIGCONT)
	})
}

// restart stops a replica as an operator does, and starts it again.
func (r *replica) restart(ctx context.Context) (drained time.Duration, err error) {
	began := time.Now()
	r.Stop()
	drained = time.Since(began)
	if r.Exit() != 0 {
		return drained, fmt.Errorf("it ends with status %d:\n%s", r.Exit(), r.Said())
	}
	return drained, r.start(ctx)
}

func terminate(ctx context.Context, l *lab) (*line, error) {
	return l.restarts(ctx, l.settings.restarts, fmt.Sprintf("SIGTERM and start again, %d times over three replicas", l.settings.restarts))
}

func rolling(ctx context.Context, l *lab) (*line, error) {
	return l.restarts(ctx, trio, "a rolling restart of three replicas")
}

// between is how long all replicas are up before the next one goes: what orchestrators
// call minReadySeconds, but far less.
const between = 200 * time.Millisecond

// restarts has replicas restarted in turns. Nobody may notice.
func (l *lab) restarts(ctx context.Context, n int, did string) (*line, error) {
	s, err := l.trio(ctx)
	if err != nil {
		return nil, err
	}
	var longest time.Duration
	out, err := s.play(ctx, did, func(ctx context.Context) error {
		for i := range n {
			drained, err := s.replicas[i%trio].restart(ctx)
			if err != nil {
				return err
			}
			longest = max(longest, drained)
			time.Sleep(between)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.want(out.Failed == 0, "%d failed checks, none are wanted", out.Failed)
	out.remark("the longest time to drain was %v", longest.Round(time.Millisecond))
	return out, nil
}
