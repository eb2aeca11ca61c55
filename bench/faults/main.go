// Command faults breaks things around Postern, and Postern itself, and counts what
// callers notice.
//
//	go run ./bench/faults                      every fault there is, about ten minutes
//	go run ./bench/faults -list                their names
//	go run ./bench/faults -run kill,rolling    some of them
//	go run ./bench/faults -quick               each as short as it can be, for CI
//	go run ./bench/faults -json out.json       the lines as JSON as well
//	go run ./bench/faults -soak 30m            no fault, but everything at once, for long
//
// Servers are processes of the binary that is built from this checkout. An issuer and a
// bundle server are in this process, and real counterparts are taken where the machine has
// them: PostgreSQL, and Envoy, which POSTERN_ENVOY names if it is not on the PATH. What is
// not there is skipped, and a line says so.
//
// # What a line says
//
// While a fault happens, an open loop of honest load goes on, and to each question the
// right answer is known: people who may, and strangers, forgers and people elsewhere, who
// may not. What ought to be denied and is allowed is a wrong allow. What gets no right
// answer is a failed check: a deny of who may, and a gRPC error whoever asked. The client
// does as a good gateway does: it honours GOAWAY and asks another server when one does not
// answer. Beside it, a gateway that fails open (failure_mode_allow: true) has requests of
// the same kinds, and nothing that ought to be denied may get through it, under any fault.
// It recovers when every server, asked directly, answers everything right, and the load
// had its last failed check.
//
// A wrong allow ends the command with status 1, through whichever door it came. Goals
// that are missed do not: client and servers share this machine, and the load average is
// beside each line. Ratios are against a quiet phase of the same trial.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// settings are the command's flags.
type settings struct {
	rate   int
	short  bool   // -quick
	binary string // to test; "" for the one of this checkout
	soak   time.Duration
	// long is how long a fault lasts that could last for ever, quiet the time before it,
	// and calm the time after its last failed check.
	long, quiet, calm time.Duration
	restarts          int
}

// fault is something that can go wrong.
type fault struct {
	name string
	what string
	run  func(context.Context, *lab) (*line, error)
}

// faults are in the order in which they are tried.
var faults = slices.Concat(crashes, storage, times, bundles, pressure, attacks, bounds)

func main() {
	log.SetFlags(log.Ltime)
	var s settings
	f := flag.NewFlagSet("faults", flag.ExitOnError)
	only := f.String("run", "", "names of faults, with commas between them; each that contains one of them is tried")
	list := f.Bool("list", false, "tell the faults and end")
	out := f.String("json", "", "write the lines to this file as well")
	f.BoolVar(&s.short, "quick", false, "only as long as it takes to see that it works; figures mean little")
	f.StringVar(&s.binary, "binary", "", "test this postern instead of building one")
	f.IntVar(&s.rate, "rate", 500, "honest questions a second")
	f.DurationVar(&s.long, "for", 5*time.Second, "how long a fault lasts that could last for ever")
	f.IntVar(&s.restarts, "restarts", 20, "how often servers are restarted (term)")
	f.DurationVar(&s.soak, "soak", 0, "mixed traffic for so long, instead of faults")
	_ = f.Parse(os.Args[1:]) // it exits
	if *list {
		for _, x := range faults {
			fmt.Printf("%-12s %s\n", x.name, x.what)
		}
		return
	}
	if err := s.check(f.Args()); err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	lines, err := measure(ctx, s, *only)
	stop()
	if *out != "" {
		err = errors.Join(err, writeJSON(*out, lines))
	}
	if err != nil {
		log.Fatal(err)
	}
	if broken(lines) {
		os.Exit(1)
	}
}

func (s *settings) check(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q: name faults with -run", args)
	}
	s.quiet, s.calm = 2*time.Second, 2*time.Second
	if s.short {
		s.rate, s.long, s.quiet, s.calm, s.restarts = min(s.rate, 200), min(s.long, 1500*time.Millisecond), 500*time.Millisecond, 300*time.Millisecond, min(s.restarts, 4)
	}
	if s.rate < 10 || s.long < 500*time.Millisecond || s.restarts < 1 || s.soak < 0 {
		return errors.New("at least -rate 10, -for 500ms and -restarts 1")
	}
	return nil
}

// chosen are the faults that are asked for.
func chosen(only string) ([]fault, error) {
	if only == "" {
		return faults, nil
	}
	var all []fault
	for _, part := range strings.Split(only, ",") {
		found := false
		for _, x := range faults {
			if !strings.Contains(x.name, part) {
				continue
			}
			found = true
			if !slices.ContainsFunc(all, func(y fault) bool { return y.name == x.name }) {
				all = append(all, x)
			}
		}
		if !found {
			return nil, fmt.Errorf("no fault %q: -list tells which there are", part)
		}
	}
	return all, nil
}

// measure tries the faults that are asked for, each whatever became of the others.
func measure(ctx context.Context, s settings, only string) (lines []*line, err error) {
	all, err := chosen(only)
	if err != nil {
		return nil, err
	}
	l, err := newLab(ctx, s)
	if err != nil {
		return nil, err
	}
	defer l.close()
	fmt.Printf("%s, load %s, %s\n", rig.Machine(), loadAverage(), time.Now().UTC().Format(time.RFC3339))
	if s.soak > 0 {
		one, err := l.soak(ctx)
		return []*line{one}, err
	}
	if err := l.selfTest(ctx); err != nil {
		return nil, err
	}
	var errs []error
	for _, x := range all {
		one, err := x.run(ctx, l)
		if ctx.Err() != nil {
			return lines, ctx.Err()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", x.name, err))
			fmt.Printf("%-12s could not be tried: %.2000v\n", x.name, err)
			continue
		}
		one.Fault = x.name
		if one.Verdict != rig.Skipped {
			one.judge()
		}
		fmt.Println(one)
		lines = append(lines, one)
	}
	summary(lines)
	return lines, errors.Join(errs...)
}

// selfTest has a gateway ask where nobody answers: it lets through what ought to be
// denied, and this is seen. Without that, nothing that follows would prove anything.
func (l *lab) selfTest(ctx context.Context) error {
	g, err := l.startGateway(ctx, rig.FreeAddr())
	if err != nil {
		return err
	}
	defer g.close()
	q := ask("nobody", rig.Path, nil, deny)
	through, err := g.through(ctx, q)
	if o := judge(deny, deny, through, err); o != wrongAllow {
		return fmt.Errorf("without any server, %s lets nobody through (%v, %w): it does not fail open, so it proves nothing", g.what, through, err)
	}
	fmt.Printf("%-12s %-7s without any server, %s lets everybody through, as it should here\n", "control", rig.Kept, g.what)
	return nil
}

func broken(lines []*line) bool {
	return slices.ContainsFunc(lines, func(l *line) bool { return l != nil && l.Verdict == rig.Broken })
}

func summary(lines []*line) {
	count := map[rig.Verdict]int{}
	wrong, leaks := 0, 0
	for _, l := range lines {
		count[l.Verdict]++
		wrong, leaks = wrong+l.WrongAllows, leaks+l.Leaks
	}
	fmt.Printf("%d faults: %d kept, %d missed a goal, %d broken, %d skipped; wrong allows %d, let through by a gateway that fails open %d\n",
		len(lines), count[rig.Kept], count[rig.Missed], count[rig.Broken], count[rig.Skipped], wrong, leaks)
}

func writeJSON(name string, lines []*line) error {
	text, err := json.MarshalIndent(struct {
		When    time.Time `json:"when"`
		Machine string    `json:"machine"`
		Lines   []*line   `json:"lines"`
	}{time.Now().UTC(), rig.Machine(), lines}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}
