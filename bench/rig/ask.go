package rig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

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

// Call sends a CheckRequest that is encoded already, and stores the answer as it came.
// It has a deadline, as every gateway sets one.
func Call(ctx context.Context, conn *grpc.ClientConn, request []byte, out *[]byte, options ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return conn.Invoke(ctx, checkMethod, request, out, append(options, grpc.ForceCodecV2(frame{}))...)
}

// Ask is Call for who wants to read the answer.
func Ask(ctx context.Context, conn *grpc.ClientConn, request []byte) (*authv3.CheckResponse, error) {
	var out []byte
	if err := Call(ctx, conn, request, &out); err != nil {
		return nil, err
	}
	res := &authv3.CheckResponse{}
	return res, proto.Unmarshal(out, res)
}

// Allows reports whether an answer lets the request through.
func Allows(res *authv3.CheckResponse) bool {
	return res.GetOkResponse() != nil && res.GetStatus().GetCode() == 0
}

// IsAllow is Allows for an answer as it came: one look at the tags of its fields.
func IsAllow(answer []byte) bool {
	const status, denied, ok, failed = 1, 2, 3, 5 // CheckResponse, external_auth.proto
	seen := false
	for len(answer) > 0 {
		number, kind, n := protowire.ConsumeTag(answer)
		if n < 0 {
			return false
		}
		size := protowire.ConsumeFieldValue(number, kind, answer[n:])
		switch {
		case size < 0, number == denied, number == failed, number == status && size > 1: // a status that says something
			return false
		}
		seen = seen || number == ok
		answer = answer[n+size:]
	}
	return seen
}

// Verify asks once and looks at the answer.
func Verify(ctx context.Context, conn *grpc.ClientConn, request []byte, want bool) error {
	res, err := Ask(ctx, conn, request)
	if err != nil {
		return err
	}
	if Allows(res) != want {
		return fmt.Errorf("the server answers %v", res)
	}
	return nil
}

// Load is a closed loop of callers, which end after a time or when they have asked
// together as often as is allowed; zero is no bound.
type Load struct {
	Callers int
	For     time.Duration
	Count   int
	// Allowed says that each answer must be an allow; others end it.
	Allowed bool
	// Failures, if set, counts what would end it, and it goes on.
	Failures *Failures
}

// Drive asks the requests in turns and returns the latencies in microseconds.
func (l Load) Drive(ctx context.Context, conns []*grpc.ClientConn, requests [][]byte) ([]float64, error) {
	begin := time.Now()
	var next atomic.Int64
	latencies := make([][]float64, l.Callers)
	errs := make([]error, l.Callers)
	var group sync.WaitGroup
	for i := range l.Callers {
		group.Go(func() {
			var out []byte
			for ctx.Err() == nil && (l.For == 0 || time.Since(begin) < l.For) {
				n := int(next.Add(1) - 1)
				if l.Count > 0 && n >= l.Count {
					return
				}
				sent := time.Now()
				err := Call(ctx, conns[i%len(conns)], requests[n%len(requests)], &out)
				took := time.Since(sent)
				if err == nil && l.Allowed {
					err = Allowed(out)
				}
				switch {
				case err == nil:
				case l.Failures != nil:
					l.Failures.Note(err)
				default:
					errs[i] = err
					return
				}
				latencies[i] = append(latencies[i], float64(took)/1e3)
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

// Figures are what one server did: in one turn, or medians over the turns.
type Figures struct {
	CPU      float64 // microseconds of server CPU a request
	Allocs   float64 // heap objects a request
	Rate     float64 // requests a second
	P50, P99 float64 // microseconds
}

// Turn drives one server and tells what each request cost.
func Turn(ctx context.Context, l Load, p *Process, conns []*grpc.ClientConn, requests [][]byte) (Figures, error) {
	if err := p.weigh(); err != nil {
		return Figures{}, err
	}
	before, err := p.Mallocs()
	if err != nil {
		return Figures{}, err
	}
	cpu, err := p.CPU()
	if err != nil {
		return Figures{}, err
	}
	begin := time.Now()
	latencies, err := l.Drive(ctx, conns, requests)
	took := time.Since(begin)
	if err != nil {
		return Figures{}, err
	}
	cpuAfter, err := p.CPU()
	if err != nil {
		return Figures{}, err
	}
	after, err := p.Mallocs()
	if err != nil {
		return Figures{}, err
	}
	n := float64(len(latencies))
	return Figures{
		CPU: float64(cpuAfter-cpu) / 1e3 / n, Allocs: max(0, after-before-p.scrape) / n, Rate: n / took.Seconds(),
		P50: Quantile(latencies, .5), P99: Quantile(latencies, .99),
	}, nil
}

// weigh finds out what telling the metrics allocates, which is much beside a few
// requests.
func (p *Process) weigh() error {
	if p.scrape > 0 {
		return nil
	}
	var seen []float64
	for range 4 {
		n, err := p.Mallocs()
		if err != nil {
			return err
		}
		seen = append(seen, n)
	}
	p.scrape = seen[3] - seen[2]
	return nil
}

// Medians are the medians of each figure.
func Medians(f []Figures) Figures {
	pick := func(get func(Figures) float64) float64 {
		var v []float64
		for _, x := range f {
			v = append(v, get(x))
		}
		return Median(v)
	}
	return Figures{
		CPU:    pick(func(f Figures) float64 { return f.CPU }),
		Allocs: pick(func(f Figures) float64 { return f.Allocs }),
		Rate:   pick(func(f Figures) float64 { return f.Rate }),
		P50:    pick(func(f Figures) float64 { return f.P50 }),
		P99:    pick(func(f Figures) float64 { return f.P99 }),
	}
}

// Median returns the middle of the values, which it sorts.
func Median(v []float64) float64 { return Quantile(v, .5) }

// Quantile returns the value below which a share of the values is, and sorts them.
func Quantile(v []float64, share float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(len(v)-1, int(float64(len(v))*share))]
}
