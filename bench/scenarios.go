package main

import (
	"context"
	"fmt"
	"log"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/postern-auth/postern/bench/rig"
)

// ScenarioResult compares the two servers.
type ScenarioResult struct {
	Name                      string
	Postern, Stock            rig.Figures
	Ratio, RatioMin, RatioMax float64 // of CPU, turn by turn
}

// scenario is a request, or many, and the answer that Postern must give: a
// benchmark of wrong answers is worth nothing.
type scenario struct {
	name     string
	requests func() [][]byte
	allowed  bool
	once     bool // each request may be sent only once: the turn ends with them
}

func (l *lab) scenarios(ctx context.Context, s settings) ([]ScenarioResult, error) {
	stock, err := l.startStock(ctx)
	if err != nil {
		return nil, err
	}
	defer stock.Stop()
	postern, err := l.startPostern(ctx, l.fixture)
	if err != nil {
		return nil, err
	}
	defer postern.Stop()
	var results []ScenarioResult
	for _, sc := range l.fixture.scenarios() {
		if !strings.Contains(sc.name, s.only) {
			continue
		}
		log.Printf("%s …", sc.name)
		r, err := compare(ctx, s, sc, postern, stock)
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", sc.name, err, postern.Said())
		}
		results = append(results, r)
	}
	return results, nil
}

// compare lets the servers take turns.
func compare(ctx context.Context, s settings, sc scenario, postern, stock *rig.Process) (ScenarioResult, error) {
	all := sc.requests()
	// With once, the last request is for this and never sent in a turn.
	if err := verify(ctx, all[len(all)-1], sc.allowed, postern); err != nil {
		return ScenarioResult{}, err
	}
	var ours, theirs []rig.Figures
	var ratios []float64
	share := (len(all) - 1) / s.rounds
	for round := range s.rounds {
		requests := all
		if sc.once {
			requests = all[round*share : (round+1)*share]
		}
		a, err := turn(ctx, s, postern, requests, sc.once)
		if err != nil {
			return ScenarioResult{}, err
		}
		b, err := turn(ctx, s, stock, requests, sc.once)
		if err != nil {
			return ScenarioResult{}, err
		}
		ours, theirs, ratios = append(ours, a), append(theirs, b), append(ratios, a.CPU/b.CPU)
	}
	return ScenarioResult{
		Name: sc.name, Postern: rig.Medians(ours), Stock: rig.Medians(theirs),
		Ratio: rig.Median(ratios), RatioMin: slices.Min(ratios), RatioMax: slices.Max(ratios),
	}, nil
}

// turn drives one server, over connections of this turn.
func turn(ctx context.Context, s settings, p *rig.Process, requests [][]byte, once bool) (rig.Figures, error) {
	conns := make([]*grpc.ClientConn, s.connections)
	for i := range conns {
		c, err := p.Dial()
		if err != nil {
			return rig.Figures{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	load := rig.Load{Callers: s.concurrency, For: s.turn}
	if once {
		load.Count = len(requests)
	}
	return rig.Turn(ctx, load, p, conns, requests)
}

// verify asks once and looks at the answer.
func verify(ctx context.Context, request []byte, want bool, p *rig.Process) error {
	conn, err := p.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return rig.Verify(ctx, conn, request, want)
}
