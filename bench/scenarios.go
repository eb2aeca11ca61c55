package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Figures are what one server did in one scenario: medians over the turns.
type Figures struct {
	CPU      float64 // microseconds of server CPU a request
	Allocs   float64 // heap objects a request
	Rate     float64 // requests a second
	P50, P99 float64 // microseconds
}

// ScenarioResult compares the two servers.
type ScenarioResult struct {
	Name                      string
	Postern, Stock            Figures
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

// frame is a codec that sends bytes as they are, so that the client's own work
// stays small and the same for both servers.
type frame struct{}

func (frame) Name() string { return "proto" }

func (frame) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (frame) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

const checkMethod = "/envoy.service.auth.v3.Authorization/Check"

func (l *lab) scenarios(ctx context.Context, s settings) ([]ScenarioResult, error) {
	stock, err := l.startStock(ctx)
	if err != nil {
		return nil, err
	}
	defer stock.stop()
	postern, err := l.startPostern(ctx, l.fixture)
	if err != nil {
		return nil, err
	}
	defer postern.stop()
	var results []ScenarioResult
	for _, sc := range l.fixture.scenarios() {
		if !strings.Contains(sc.name, s.only) {
			continue
		}
		log.Printf("%s …", sc.name)
		r, err := compare(ctx, s, sc, postern, stock)
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", sc.name, err, postern.log.String())
		}
		results = append(results, r)
	}
	return results, nil
}

// compare lets the servers take turns.
func compare(ctx context.Context, s settings, sc scenario, postern, stock *process) (ScenarioResult, error) {
	all := sc.requests()
	// With once, the last request is for this and never sent in a turn.
	if err := verify(ctx, all[len(all)-1], sc.allowed, postern); err != nil {
		return ScenarioResult{}, err
	}
	var ours, theirs []Figures
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
		Name: sc.name, Postern: medians(ours), Stock: medians(theirs),
		Ratio: median(ratios), RatioMin: slices.Min(ratios), RatioMax: slices.Max(ratios),
	}, nil
}

// verify asks once and looks at the answer.
func verify(ctx context.Context, request []byte, want bool, p *process) error {
	conn, err := p.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	var out []byte
	if err := conn.Invoke(ctx, checkMethod, request, &out, grpc.ForceCodecV2(frame{})); err != nil {
		return err
	}
	var res authv3.CheckResponse
	if err := proto.Unmarshal(out, &res); err != nil {
		return err
	}
	if allowed := res.GetOkResponse() != nil && res.GetStatus().GetCode() == 0; allowed != want {
		return fmt.Errorf("the server answers %v", &res)
	}
	return nil
}

// turn drives one server with a closed loop of callers.
func turn(ctx context.Context, s settings, p *process, requests [][]byte, once bool) (Figures, error) {
	conns := make([]*grpc.ClientConn, s.connections)
	for i := range conns {
		c, err := p.dial()
		if err != nil {
			return Figures{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	before, err := p.usage()
	if err != nil {
		return Figures{}, err
	}
	begin := time.Now()
	latencies, err := drive(ctx, s, conns, requests, once)
	took := time.Since(begin)
	if err != nil {
		return Figures{}, err
	}
	after, err := p.usage()
	if err != nil {
		return Figures{}, err
	}
	slices.Sort(latencies)
	n := float64(len(latencies))
	return Figures{
		CPU: float64(after.cpu-before.cpu) / 1e3 / n, Allocs: (after.mallocs - before.mallocs) / n, Rate: n / took.Seconds(),
		P50: latencies[len(latencies)/2], P99: latencies[len(latencies)*99/100],
	}, nil
}

// drive asks for the length of a turn, or until the requests that may be sent once
// are used up, and returns the latencies in microseconds.
func drive(ctx context.Context, s settings, conns []*grpc.ClientConn, requests [][]byte, once bool) ([]float64, error) {
	until := time.Now().Add(s.turn)
	var next atomic.Int64
	latencies := make([][]float64, s.concurrency)
	errs := make([]error, s.concurrency)
	var group sync.WaitGroup
	for i := range s.concurrency {
		group.Go(func() {
			var out []byte
			for time.Now().Before(until) && ctx.Err() == nil {
				n := int(next.Add(1) - 1)
				if once && n >= len(requests) {
					return
				}
				sent := time.Now()
				if err := call(ctx, conns[i%len(conns)], requests[n%len(requests)], &out); err != nil {
					errs[i] = err
					return
				}
				latencies[i] = append(latencies[i], float64(time.Since(sent))/1e3)
			}
		})
	}
	group.Wait()
	all := slices.Concat(latencies...)
	err := cmp.Or(errs...)
	if err == nil && len(all) == 0 {
		err = cmp.Or(ctx.Err(), errors.New("nothing was asked"))
	}
	return all, err
}

// call asks once, with a deadline as every gateway sets one.
func call(ctx context.Context, conn *grpc.ClientConn, request []byte, out *[]byte) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return conn.Invoke(ctx, checkMethod, request, out, grpc.ForceCodecV2(frame{}))
}

func medians(f []Figures) Figures {
	pick := func(get func(Figures) float64) float64 {
		var v []float64
		for _, x := range f {
			v = append(v, get(x))
		}
		return median(v)
	}
	return Figures{
		CPU:    pick(func(f Figures) float64 { return f.CPU }),
		Allocs: pick(func(f Figures) float64 { return f.Allocs }),
		Rate:   pick(func(f Figures) float64 { return f.Rate }),
		P50:    pick(func(f Figures) float64 { return f.P50 }),
		P99:    pick(func(f Figures) float64 { return f.P99 }),
	}
}
