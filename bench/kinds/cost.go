package main

import (
	"context"

	"google.golang.org/grpc"

	"github.com/postern-auth/postern/bench/rig"
)

// compared are medians over turns: of the server, of the stock server beside it, and
// of the ratio of their CPU.
type compared struct {
	cpu, stock, ratio     float64
	latency, stockLatency float64
	allocs, stockAllocs   float64
}

const (
	// turns are taken of each measurement, if there are credentials enough.
	turns = 3
	// enough is how many requests a turn should have.
	enough = 50
	// loners is which part of the requests one lone caller asks.
	loners = 4
)

// cost measures one kind.
func (w *world) cost(ctx context.Context, k kind) (cost, error) {
	n := w.samples
	if k.most > 0 {
		n = min(n, k.most)
	}
	c := cost{name: k.name, remark: k.remark, samples: n, noWarm: k.once}
	if k.name == "app-session" {
		c.remark += " (" + w.sessions.what + ")"
	}
	requests, err := k.cold(ctx, w, n+1)
	if err != nil {
		return c, err
	}
	// The first one shows that it is good, and later that it is known.
	if err := rig.Verify(ctx, w.asks[0], requests[0], true); err != nil {
		return c, err
	}
	if c.cold, err = w.compare(ctx, requests[1:]); err != nil || k.once {
		return c, err
	}
	return c, w.warm(ctx, k, requests[0], &c)
}

// warm measures credentials that are known.
func (w *world) warm(ctx context.Context, k kind, known []byte, c *cost) (err error) {
	if k.warm == nil {
		again := make([][]byte, turns*w.samples)
		for i := range again {
			again[i] = known
		}
		c.warm, err = w.compare(ctx, again)
		return err
	}
	requests, err := k.warm(ctx, w, turns*w.samples+1)
	if err != nil {
		return err
	}
	if err := rig.Verify(ctx, w.asks[0], requests[0], true); err != nil {
		return err
	}
	c.warm, err = w.compare(ctx, requests[1:])
	return err
}

// compare lets the servers take turns with requests, each of which is sent to each of
// them once: first by many callers, then by one.
func (w *world) compare(ctx context.Context, requests [][]byte) (c compared, err error) {
	rounds := min(turns, max(1, len(requests)/enough))
	share := len(requests) / rounds
	var ours, theirs, ourLone, theirLone []rig.Figures
	var ratios []float64
	for i := range rounds {
		part := requests[i*share : (i+1)*share]
		lone := max(1, share/loners)
		for _, x := range []struct {
			p     *rig.Process
			conns []*grpc.ClientConn
			many  *[]rig.Figures
			one   *[]rig.Figures
		}{{w.postern, w.asks, &ours, &ourLone}, {w.stock, w.against, &theirs, &theirLone}} {
			if err := w.turn(ctx, x.p, x.conns, part[lone:], callers, x.many); err != nil {
				return c, err
			}
			if err := w.turn(ctx, x.p, x.conns[:1], part[:lone], 1, x.one); err != nil {
				return c, err
			}
		}
		ratios = append(ratios, ours[i].CPU/theirs[i].CPU)
	}
	a, b := rig.Medians(ours), rig.Medians(theirs)
	return compared{
		cpu: a.CPU, stock: b.CPU, ratio: rig.Median(ratios), allocs: a.Allocs, stockAllocs: b.Allocs,
		latency: rig.Medians(ourLone).P50, stockLatency: rig.Medians(theirLone).P50,
	}, nil
}

func (w *world) turn(ctx context.Context, p *rig.Process, conns []*grpc.ClientConn, requests [][]byte, callers int, to *[]rig.Figures) error {
	f, err := rig.Turn(ctx, rig.Load{Callers: callers, Count: len(requests), Allowed: true}, p, conns, requests)
	*to = append(*to, f)
	return err
}
