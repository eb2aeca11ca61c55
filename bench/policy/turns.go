package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-auth/postern/bench/rig"
)

// load is a way to ask.
type load struct {
	name string
	// goals says that its latency is the one that is promised. That of a closed loop
	// that keeps all processors busy tells as much about the machine.
	goals bool
	drive func(ctx context.Context, conns []*grpc.ClientConn, requests [][]byte) (*rig.Seen, error)
}

func paced(rate int, d time.Duration, look func([]byte) error) load {
	return load{name: fmt.Sprintf("open loop, %d/s", rate), goals: true, drive: rig.Pace{Rate: rate, For: d, Look: look}.Drive}
}

func closed(callers int, d time.Duration) load {
	return load{name: fmt.Sprintf("closed loop, %d callers", callers), drive: func(ctx context.Context, conns []*grpc.ClientConn, requests [][]byte) (*rig.Seen, error) {
		seen := &rig.Seen{}
		latencies, err := rig.Load{Callers: callers, For: d, Allowed: true, Failures: &seen.Failures}.Drive(ctx, conns, requests)
		seen.Latencies = latencies
		return seen, err
	}}
}

// pair is what a load saw without a disturbance and with it.
type pair struct{ quiet, busy rig.Seen }

// turns lets a load have its turns without a disturbance and with it. disturb begins
// it and returns what ends it.
func (l load) turns(ctx context.Context, s *server, requests [][]byte, n int, disturb func(context.Context) (end func())) (*pair, error) {
	p := &pair{}
	for turn := range n {
		log.Printf("  %s, turn %d of %d …", l.name, turn+1, n)
		quiet, err := l.drive(ctx, s.conns, requests)
		if err != nil {
			return nil, fmt.Errorf("%w\n%s", err, s.Said())
		}
		p.quiet.Add(quiet)
		end := disturb(ctx)
		busy, err := l.drive(ctx, s.conns, requests)
		end()
		if err != nil {
			return nil, fmt.Errorf("%w\n%s", err, s.Said())
		}
		p.busy.Add(busy)
	}
	return p, nil
}

// ratio is how many times the 99th percentile is what it is when it is quiet.
func (p *pair) ratio() float64 {
	return rig.Quantile(p.busy.Latencies, .99) / rig.Quantile(p.quiet.Latencies, .99)
}

// failures is the row of what should not be: on a machine that is busy with other
// things, the server may have to say that it is too. An allow that is wrong, or an answer
// by two policies, is something else.
func (p *pair) failures(part, what string) rig.Row {
	n, first := p.busy.Failures.Count()
	quiet, firstQuiet := p.quiet.Failures.Count()
	row := rig.Row{
		Part: part, What: what + ": failed checks", Wanted: "none", Verdict: rig.Goal(n+quiet == 0),
		Figure: fmt.Sprintf("%d of %d; %d of %d when quiet", n, len(p.busy.Latencies), quiet, len(p.quiet.Latencies)),
	}
	for _, err := range []error{first, firstQuiet} {
		if err != nil {
			row.Remark = fmt.Sprintf("%.80v", err)
		}
	}
	return row
}

// beside is the figure of both distributions.
func (p *pair) beside() string {
	return fmt.Sprintf("%s; quiet %s", quantiles(p.busy.Latencies), quantiles(p.quiet.Latencies))
}

// quantiles of microseconds, in milliseconds.
func quantiles(micros []float64) string {
	at := func(share float64) float64 { return rig.Quantile(micros, share) / 1e3 }
	return fmt.Sprintf("p50 %.2f, p99 %.2f, p99.9 %.2f ms", at(.5), at(.99), at(.999))
}

// late says how late the client itself was.
func (p *pair) late() string {
	if len(p.busy.Late) == 0 {
		return ""
	}
	return fmt.Sprintf("the client itself was late: p99 %.2f ms; quiet %.2f", rig.Quantile(p.busy.Late, .99)/1e3, rig.Quantile(p.quiet.Late, .99)/1e3)
}
