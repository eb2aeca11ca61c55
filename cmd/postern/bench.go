package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/check"
	grpcdoor "github.com/postern-auth/postern/server/door/grpc"
	"github.com/postern-auth/postern/server/strictyaml"
)

// bench is `postern bench`: questions, whom they are put to, and how.
type bench struct {
	question
	file      string
	askers    int
	rate      float64
	lead, run time.Duration
}

func benchCommand() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "bench [[METHOD] URL]",
		Short: "Measure checks: your policy, your keys, your machine",
		Long: `Asks about one request, as postern check does, or about those in a file, over and
over, and prints how long the answers took. With -c it decides in this process, from
the words of CheckService to its answer: nothing goes over a wire, and nothing is
charged or recorded. Otherwise it asks a server: what its decisions cost is charged
to the budgets and rates of whoever's keys these are.

By default a few askers each wait for an answer before they ask again. With --rate,
questions begin at their time, answered or not, and a late one counts from when it
was due, as for clients who do not wait for one another. A percentile is left out
unless ten answers took longer.

A file of requests is YAML; weights say how often each is asked, 1 if left out:

  requests:
    - request: GET https://api.example.com/orders/7
      headers: {x-api-key: "@key.txt"}
      weight: 9
    - request: POST https://api.example.com/orders
      headers: {authorization: "Bearer @token.txt"}
      body: order.json

Files in it are relative to it. The exit status is 0 whatever was decided, and 2 if a
question had no answer.`,
		Example: `  postern bench -c postern.yaml https://api.example.com/orders/7 -H 'x-api-key: @key.txt'
  postern bench -c postern.yaml --requests requests.yaml --time 30s -o json
  postern bench --server postern.internal:9191 --ca ca.pem --rate 2000 --requests requests.yaml`,
		Args: arguments(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			requests, err := b.requests(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			if err := b.sane(); err != nil {
				return err
			}
			report, err := b.measure(cmd.Context(), requests)
			if err != nil {
				return err
			}
			if b.output != "table" {
				err = encodeValue(cmd.OutOrStdout(), b.output, report)
			} else {
				err = report.print(cmd.OutOrStdout())
			}
			if err == nil && report.Failed > 0 {
				return &exitError{exitFault}
			}
			return err
		},
	}
	b.flags(cmd, "server", defaultServer)
	configFlag(cmd, &b.config, "", "decide here with this configuration instead of asking a server")
	b.requestFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&b.file, "requests", "", "file of requests, instead of one on the command line")
	f.IntVar(&b.askers, "concurrency", runtime.GOMAXPROCS(0), "how many ask at the same time")
	f.Float64Var(&b.rate, "rate", 0, "how many questions begin in a second (default: as many as get answers)")
	f.DurationVar(&b.lead, "warm-up", time.Second, "how long is asked before it counts")
	f.DurationVar(&b.run, "time", 5*time.Second, "how long to measure")
	_ = cmd.MarkFlagFilename("requests", "yaml", "yml")
	outputFlag(cmd, &b.output)
	exclusive(cmd, "config", "server", "tls", "ca", "cert", "key", "caller-token-file")
	exclusive(cmd, "requests", "header", "body", "source", "cost")
	return cmd
}

// The bounds of what is worth measuring.
const (
	maxAskers   = 4096
	maxRate     = 1e6
	maxBench    = time.Hour
	maxWeight   = 1000
	maxRequests = 10_000
	maxFile     = 16 << 20
)

// sane refuses what would measure nothing.
func (b *bench) sane() error {
	switch {
	case b.askers < 1 || b.askers > maxAskers:
		return fmt.Errorf("--concurrency %d is out of range: use 1 to %d", b.askers, maxAskers)
	case b.rate < 0 || b.rate > maxRate || math.IsNaN(b.rate):
		return fmt.Errorf("--rate %g is out of range: use up to %g", b.rate, maxRate)
	case b.run < 10*time.Millisecond || b.run > maxBench:
		return fmt.Errorf("--time %s is out of range: use 10ms to 1h", b.run)
	case b.lead < 0 || b.lead > maxBench:
		return fmt.Errorf("--warm-up %s is out of range: use up to 1h", b.lead)
	case b.Timeout <= 0:
		return fmt.Errorf("--timeout %s: use a time", b.Timeout)
	}
	return nil
}

// benchFile is a file of requests.
type benchFile struct {
	Requests []benchEntry `yaml:"requests,required"`
}

// benchEntry is one of them.
type benchEntry struct {
	Request string            `yaml:"request,required"`
	Headers map[string]string `yaml:"headers"`
	Body    strictyaml.Path   `yaml:"body"`
	Source  string            `yaml:"source"`
	Cost    map[string]int64  `yaml:"cost"`
	Weight  int               `yaml:"weight"`
}

// SetDefaults implements strictyaml.Defaulter.
func (e *benchEntry) SetDefaults() { e.Weight, e.Source = 1, "127.0.0.1" }

// weighted is a request and how often it is asked.
type weighted struct {
	*posternv1.CheckRequest
	weight int
}

func (b *bench) requests(stdin io.Reader, args []string) ([]weighted, error) {
	switch {
	case b.file == "" && len(args) == 0:
		return nil, errors.New("give a request, or a file of them with --requests")
	case b.file == "":
		req, err := b.request(stdin, args)
		return []weighted{{req, 1}}, err
	case len(args) > 0:
		return nil, errors.New("give a request or --requests, not both")
	}
	text, err := os.ReadFile(b.file)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(b.file))
	if err != nil {
		return nil, err
	}
	var file benchFile
	if err := strictyaml.Decode(b.file, text, &file, strictyaml.WithBase(dir), strictyaml.WithMaxSize(maxFile), strictyaml.RefuseEmptyLists()); err != nil {
		return nil, err
	}
	if len(file.Requests) > maxRequests {
		return nil, fmt.Errorf("%s: %d requests, at most %d are asked", b.file, len(file.Requests), maxRequests)
	}
	var all []weighted
	for i := range file.Requests {
		req, err := file.Requests[i].question(dir)
		if err != nil {
			return nil, fmt.Errorf("%s: requests[%d]: %w", b.file, i, err)
		}
		all = append(all, weighted{req, file.Requests[i].Weight})
	}
	return all, nil
}

// question makes the question of an entry, in the same way as that of the command line.
func (e *benchEntry) question(dir string) (*posternv1.CheckRequest, error) {
	if e.Weight < 1 || e.Weight > maxWeight {
		return nil, fmt.Errorf("weight %d is out of range: use 1 to %d", e.Weight, maxWeight)
	}
	q := question{source: e.Source, body: string(e.Body)}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		value := e.Headers[name]
		if before, file, at := strings.Cut(value, "@"); at && !filepath.IsAbs(file) && (before == "" || strings.HasSuffix(before, " ")) && strings.Count(before, " ") < 2 {
			if _, err := os.Stat(filepath.Join(dir, file)); err == nil || before == "" {
				value = before + "@" + filepath.Join(dir, file)
			}
		}
		q.headers = append(q.headers, name+": "+value)
	}
	for _, unit := range slices.Sorted(maps.Keys(e.Cost)) {
		q.cost = append(q.cost, fmt.Sprintf("%s=%d", unit, e.Cost[unit]))
	}
	return q.request(strings.NewReader(""), strings.Fields(e.Request))
}

// schedule is the order in which requests are asked: each as often as it weighs, well
// mixed, and the same every time.
func schedule(requests []weighted) []*posternv1.CheckRequest {
	var all []*posternv1.CheckRequest
	for _, r := range requests {
		for range r.weight {
			all = append(all, r.CheckRequest)
		}
	}
	mix := rand.New(rand.NewPCG(1, 2)) // no secret
	mix.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// answerer is whom the questions are put to.
type answerer struct {
	// ask is what one asker does; calls of different askers run at the same time.
	ask func(ctx context.Context, asker int, req *posternv1.CheckRequest) (*posternv1.CheckResponse, error)
	// by says in words who that is.
	by string
	// remembered is how many answers came from the decision cache; nil if nobody knows.
	remembered func() uint64
	done       func()
}

// noting is a Checker that notes how many of its answers were remembered. Each asker has
// its own.
type noting struct {
	*check.Checker
	cached atomic.Uint64
	_      [48]byte // those of others are not on the same line of the CPU's cache
}

// Check implements grpcdoor.Checker.
func (n *noting) Check(ctx context.Context, a *policy.Attributes) policy.Decision {
	d := n.Checker.Check(ctx, a)
	if d.Cached {
		n.cached.Add(1)
	}
	return d
}

func (b *bench) answerer(ctx context.Context) (*answerer, error) {
	if b.config != "" {
		return b.here(ctx)
	}
	conn, err := b.Dial()
	if err != nil {
		return nil, err
	}
	outgoing, cancel, err := b.Context(ctx) // read the caller's token once
	if err != nil {
		return nil, err
	}
	cancel()
	outgoing = context.WithoutCancel(outgoing)
	client := posternv1.NewCheckServiceClient(conn)
	return &answerer{
		by: "the server at " + b.Address + ", over gRPC",
		ask: func(ctx context.Context, _ int, req *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
			call, cancel := context.WithTimeout(outgoing, b.Timeout)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			return client.Check(call, req)
		},
		done: func() { _ = conn.Close() },
	}, nil
}

// here decides in this process.
func (b *bench) here(ctx context.Context) (*answerer, error) {
	cfg, err := loadConfig(b.config)
	if err != nil {
		return nil, err
	}
	checker, done, err := server.Offline(ctx, cfg)
	if err != nil {
		return nil, err
	}
	notes, doors := make([]noting, b.askers), make([]*grpcdoor.Door, b.askers)
	for i := range doors {
		notes[i].Checker = checker
		doors[i] = grpcdoor.New(&notes[i], checker, slog.New(slog.DiscardHandler))
	}
	return &answerer{
		by: b.config + ", in this process, without a wire",
		ask: func(ctx context.Context, asker int, req *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
			ctx, cancel := context.WithTimeout(ctx, b.Timeout)
			defer cancel()
			return doors[asker].Check(ctx, req)
		},
		remembered: func() (n uint64) {
			for i := range notes {
				n += notes[i].cached.Load()
			}
			return n
		},
		done: done,
	}, nil
}

// failed is the name under which questions without an answer are counted. Reasons have no
// spaces.
const failed = "no answer: "

func (b *bench) measure(ctx context.Context, requests []weighted) (*benchReport, error) {
	who, err := b.answerer(ctx)
	if err != nil {
		return nil, err
	}
	defer who.done()
	for i, r := range requests { // a question that cannot be put is not worth a measurement
		if _, err := who.ask(ctx, 0, r.CheckRequest); err != nil {
			return nil, fmt.Errorf("request %d of %d: %w", i+1, len(requests), b.ExplainRPC(err))
		}
	}
	order := schedule(requests)
	l := &load{askers: b.askers, rate: b.rate, lead: b.lead, time: b.run}
	l.ask = func(ctx context.Context, asker, n int) string {
		res, err := who.ask(ctx, asker, order[(n*b.askers+asker)%len(order)])
		if err != nil {
			return failed + status.Code(err).String()
		}
		return policy.Reason(res.GetDecision().GetReason()).String()
	}
	var before usage
	m := l.run(ctx, func() { before = used(who) })
	after := used(who)
	if err := ctx.Err(); err != nil {
		return nil, errors.New("it was stopped before its time")
	}
	return b.report(requests, who, m, before, after), nil
}

// usage is what was used up so far.
type usage struct {
	cpu        time.Duration
	mallocs    uint64
	remembered uint64
}

func used(who *answerer) (u usage) {
	if who.remembered == nil {
		return u
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return usage{cpuTime(), memory.Mallocs, who.remembered()}
}

// benchReport is what `postern bench` says.
type benchReport struct {
	By       string       `json:"decided_by" yaml:"decided_by"`
	Requests int          `json:"requests" yaml:"requests"`
	Machine  benchMachine `json:"machine" yaml:"machine"`
	Askers   int          `json:"concurrency" yaml:"concurrency"`
	Rate     float64      `json:"rate,omitempty" yaml:"rate,omitempty"`
	WarmUp   float64      `json:"warm_up_seconds" yaml:"warm_up_seconds"`
	Took     float64      `json:"seconds" yaml:"seconds"`
	Checks   uint64       `json:"checks" yaml:"checks"`
	PerSec   float64      `json:"checks_per_second" yaml:"checks_per_second"`
	// Latency has a percentile only if it is known.
	Latency map[string]int64 `json:"latency_ns" yaml:"latency_ns"`
	CPU     *int64           `json:"cpu_ns_per_check,omitempty" yaml:"cpu_ns_per_check,omitempty"`
	Mallocs *float64         `json:"allocations_per_check,omitempty" yaml:"allocations_per_check,omitempty"`
	Cached  *float64         `json:"cached_share,omitempty" yaml:"cached_share,omitempty"`
	Allowed uint64           `json:"allowed" yaml:"allowed"`
	Denied  uint64           `json:"denied" yaml:"denied"`
	Failed  uint64           `json:"failed" yaml:"failed"`
	// Reasons are answers by reason, and what kept others from being one.
	Reasons map[string]uint64 `json:"reasons" yaml:"reasons"`
	Notes   []string          `json:"notes,omitempty" yaml:"notes,omitempty"`
}

// benchMachine is what the figures are of.
type benchMachine struct {
	System     string `json:"system" yaml:"system"`
	CPUs       int    `json:"cpus" yaml:"cpus"`
	GOMAXPROCS int    `json:"gomaxprocs" yaml:"gomaxprocs"`
	Go         string `json:"go" yaml:"go"`
	Version    string `json:"version" yaml:"version"`
}

// percentiles are those that are printed.
var percentiles = []struct {
	name string
	part float64
}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}}

func (b *bench) report(requests []weighted, who *answerer, m *loaded, before, after usage) *benchReport {
	r := &benchReport{
		By: who.by, Requests: len(requests), Askers: b.askers, Rate: b.rate, WarmUp: b.lead.Seconds(), Took: m.took.Seconds(),
		Machine: benchMachine{runtime.GOOS + "/" + runtime.GOARCH, runtime.NumCPU(), runtime.GOMAXPROCS(0), runtime.Version(), buildVersion()},
		Checks:  m.times.Count(), PerSec: float64(m.times.Count()) / m.took.Seconds(), Latency: map[string]int64{"max": int64(m.times.Max())}, Reasons: m.answers,
	}
	for _, p := range percentiles {
		if d, known := m.at(p.part); known {
			r.Latency[p.name] = int64(d)
		}
	}
	for name, n := range m.answers {
		switch {
		case strings.HasPrefix(name, failed):
			r.Failed += n
		case name == policy.ReasonAllowed.String():
			r.Allowed += n
		default:
			r.Denied += n
		}
	}
	if r.Checks > 0 && who.remembered != nil {
		n := float64(r.Checks)
		mallocs, cached := float64(after.mallocs-before.mallocs)/n, min(float64(after.remembered-before.remembered)/n, 1)
		r.Mallocs, r.Cached = &mallocs, &cached
		if cpu := int64(float64(after.cpu-before.cpu) / n); cpu > 0 {
			r.CPU = &cpu
		}
	}
	r.note(b, m)
	return r
}

// note says what the figures do not.
func (r *benchReport) note(b *bench, m *loaded) {
	say := func(format string, args ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) }
	if r.Checks == 0 {
		say("nothing was answered in the time")
	}
	if b.config != "" && b.askers > r.Machine.GOMAXPROCS {
		say("%d ask on %d cores: the times include waiting for a core", b.askers, r.Machine.GOMAXPROCS)
	}
	if b.config == "" && isThisMachine(b.Address) {
		say("the server is on this machine: it and what asks share %d cores", r.Machine.CPUs)
	}
	if m.behind > 0 {
		say("%d questions were begun more than a second late: %d askers are too few for %g a second, or the server is", m.behind, b.askers, b.rate)
	}
	if r.Failed > 0 {
		say("%d questions had no answer", r.Failed)
	}
	var faults, refused uint64
	for _, reason := range policy.Reasons() {
		if n := m.answers[reason.String()]; reason.Fault() {
			faults += n
		} else if reason.Status() == 401 || reason == policy.ReasonRequestInvalid {
			refused += n
		}
	}
	if faults > 0 {
		say("%d answers are faults: no decision was made", faults)
	}
	if r.Checks > 0 && refused == r.Checks {
		say("no request came as far as the policy: each was refused for its credential or its form")
	}
}

// isThisMachine reports whether an address is of loopback, or a socket.
func isThisMachine(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (r *benchReport) print(w io.Writer) error {
	times := []string{}
	for _, p := range percentiles {
		if ns, known := r.Latency[p.name]; known {
			times = append(times, p.name+" "+roundTime(ns))
		}
	}
	pace := fmt.Sprintf("%d at a time", r.Askers)
	if r.Rate > 0 {
		pace = fmt.Sprintf("%g a second, %d at a time at most", r.Rate, r.Askers)
	}
	rows := []row{
		{"decided by", r.By},
		{"machine", fmt.Sprintf("%s, %d cores, GOMAXPROCS %d, %s", r.Machine.System, r.Machine.CPUs, r.Machine.GOMAXPROCS, r.Machine.Go)},
		{"load", fmt.Sprintf("requests: %d; %s, for %.1fs after %.1fs", r.Requests, pace, r.Took, r.WarmUp)},
		{"checks", fmt.Sprintf("%d, %.0f a second", r.Checks, r.PerSec)},
		{"latency", strings.Join(append(times, "max "+roundTime(r.Latency["max"])), ", ")},
	}
	if r.CPU != nil {
		rows = append(rows, row{"cpu", roundTime(*r.CPU) + " a check, that of asking included"})
	}
	if r.Mallocs != nil {
		rows = append(rows, row{"allocations", fmt.Sprintf("%.0f a check, those of asking included", *r.Mallocs)})
	}
	if r.Cached != nil {
		rows = append(rows, row{"cached", fmt.Sprintf("%.1f %% of the decisions", *r.Cached*100)})
	}
	rows = append(rows, row{"allow", fmt.Sprint(r.Allowed)}, row{"deny", fmt.Sprint(r.Denied)})
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		if reason != policy.ReasonAllowed.String() {
			rows = append(rows, row{"  " + reason, fmt.Sprint(r.Reasons[reason])})
		}
	}
	for _, n := range r.Notes {
		rows = append(rows, row{"note", n})
	}
	return printRows(w, rows)
}

// roundTime is a time with three digits that matter.
func roundTime(ns int64) string {
	d := time.Duration(ns)
	for unit := time.Duration(1); ; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
}
