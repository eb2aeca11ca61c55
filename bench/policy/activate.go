package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/histogram"
)

// activate has bundles of many roles put in force one after the other, and asks
// meanwhile.
func activate(ctx context.Context, l *lab, s settings, out *rig.Report) error {
	const several = 4 // that take turns
	var bundles [][]byte
	for i := range several {
		files, err := policyFiles(s.roles, map[string]string{"authz.rego": fmt.Sprintf("package postern.authz\nimport data.postern.lib.rbac\ndecision := rbac.decision\nrevision := %d\n", i)})
		if err != nil {
			return err
		}
		raw, err := l.pack(ctx, files, fmt.Sprint(i+1))
		if err != nil {
			return err
		}
		bundles = append(bundles, raw)
	}
	p, err := newPublisher(bundles)
	if err != nil {
		return err
	}
	defer p.close()
	if err := activateInProcess(ctx, l, s, p, out); err != nil {
		return err
	}
	server, err := l.subscribe(ctx, p)
	if err != nil {
		return err
	}
	defer server.stop()
	for _, load := range []load{paced(s.rate, s.turn, nil), closed(s.callers, s.turn)} {
		count := activations{server: server}
		seen, err := load.turns(ctx, server, l.requests, s.turns, func(context.Context) func() {
			count.begin()
			p.backToBack(true)
			return func() { p.backToBack(false); count.end() }
		})
		if err != nil {
			return err
		}
		out.Add(seen.failures("activate", load.name))
		row := rig.Row{Part: "activate", What: fmt.Sprintf("%s, %d roles", load.name, s.roles), Figure: seen.beside(), Remark: count.String() + " " + seen.late()}
		if load.goals {
			row.Wanted, row.Verdict = "p99 1 ms, p99.9 20 ms", swiftly(seen.busy.Latencies)
		}
		out.Add(row)
	}
	return nil
}

// swiftly is the verdict on latencies in microseconds.
func swiftly(micros []float64) rig.Verdict {
	return rig.Goal(rig.Quantile(micros, .99) < 1000 && rig.Quantile(micros, .999) < 20_000)
}

// activations counts those of a server.
type activations struct {
	server *server
	n      float64
	took   time.Duration
	before float64
	began  time.Time
	failed error
}

func (a *activations) count() float64 {
	n, err := a.server.Metric(`postern_bundle_activations_total{bundle="bench"}`)
	if err != nil {
		a.failed = err
	}
	return n
}

func (a *activations) begin() { a.before, a.began = a.count(), time.Now() }

func (a *activations) end() { a.n, a.took = a.n+a.count()-a.before, a.took+time.Since(a.began) }

// rate is how many there were a second.
func (a *activations) rate() float64 { return a.n / a.took.Seconds() }

// String implements fmt.Stringer.
func (a *activations) String() string {
	if a.failed != nil {
		return a.failed.Error()
	}
	return fmt.Sprintf("%.0f activations, %.1f/s.", a.n, a.rate())
}

// activateInProcess has the same done in this process, without a server around it: one
// goroutine decides and decides, and every decision is timed.
func activateInProcess(ctx context.Context, l *lab, s settings, p *publisher, out *rig.Report) error {
	engine := &rego.Engine{}
	source, err := bundle.New(ctx, bundle.Config{
		Bundles: []bundle.Bundle{{Name: "bench", URL: p.url, AllowRollback: true}}, Keys: []bundle.Key{l.public},
	}, bundle.Deps{Engine: engine})
	if err != nil {
		return err
	}
	defer source.Close()
	if err := source.Poll(ctx); err != nil {
		return err
	}
	var quiet, busy histogram.Histogram
	polls := 0
	var took time.Duration
	for turn := range s.turns {
		log.Printf("  in process, turn %d of %d …", turn+1, s.turns)
		if err := decide(ctx, engine, time.After(s.turn), &quiet); err != nil {
			return err
		}
		p.backToBack(true)
		ended, failed := make(chan time.Time), make(chan error, 1)
		go func() {
			defer close(ended)
			for began := time.Now(); time.Since(began) < s.turn && ctx.Err() == nil; polls++ {
				if err := source.Poll(ctx); err != nil {
					failed <- err
					return
				}
			}
		}()
		began := time.Now()
		err := decide(ctx, engine, ended, &busy)
		took += time.Since(began)
		p.backToBack(false)
		<-ended
		select {
		case err = <-failed:
		default:
		}
		if err != nil {
			return err
		}
	}
	out.Add(rig.Row{
		Part: "activate", What: fmt.Sprintf("in process, %d roles", s.roles), Figure: fmt.Sprintf("%s; quiet %s", &busy, &quiet),
		Wanted: "p99 1 ms, p99.9 20 ms", Verdict: rig.Goal(busy.Quantile(.99) < time.Millisecond && busy.Quantile(.999) < 20*time.Millisecond),
		Remark: fmt.Sprintf("%d activations of %.0f ms, max %v; quiet %v", polls, float64(took.Milliseconds())/float64(polls), busy.Max().Round(time.Microsecond), quiet.Max().Round(time.Microsecond)),
	})
	return nil
}

// decide decides until it is told to end.
func decide(ctx context.Context, engine *rego.Engine, end <-chan time.Time, into *histogram.Histogram) error {
	inputs := make([]*policy.Input, 0, people)
	for i := range people {
		inputs = append(inputs, inputOf(i))
	}
	for i := 0; ; i++ {
		select {
		case <-end:
			return ctx.Err()
		default:
		}
		began := time.Now()
		v, _, err := engine.Decide(ctx, inputs[i%people])
		into.Add(time.Since(began))
		if err != nil || !v.Allow {
			return fmt.Errorf("the policy answers %+v, %w", v, err)
		}
	}
}
