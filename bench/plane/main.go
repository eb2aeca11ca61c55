// Command plane measures the credential plane: how soon every replica knows of a
// revocation, what happens while the store is down, what a million keys cost, and
// whether the time of an answer tells an unknown key from a wrong secret.
//
//	go run ./bench/plane                      all of it, about seven minutes
//	go run ./bench/plane revocation           8 replicas on one PostgreSQL
//	go run ./bench/plane decommission         the same for agents with all below them
//	go run ./bench/plane -full outage         the store is down for two minutes
//	go run ./bench/plane -keys 100000 million
//	go run ./bench/plane timing
//
// Replicas are processes of the binary that is built from this checkout; they, the
// client and the database share the machine. PostgreSQL is a throw-away cluster of
// the server that the machine has; where there is none, the parts that need it are
// skipped and say so. A broken promise ends the command with status 1, a goal that
// is missed does not.
//
// # What counts as too late
//
// A revocation is acknowledged when its caller has the answer of the admin API. From
// one second after that no replica may decide to allow. When a replica decided
// cannot be seen from outside: it was after the question was sent and before the
// answer came, and for a process that is stopped in between these are seconds apart.
// So an answer counts as given when it was received, which is too late rather than
// too early; only where that is past the bound, the replica is asked, by the
// decision's id, when the decision was complete (its record's time and latency, by
// the clock of the same machine), and that counts. Where it does not remember, the
// time of receipt stands.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/server/store/pgtest"
)

// settings are the command's flags.
type settings struct {
	replicas int
	events   int
	stops    int
	down     time.Duration
	keys     string
	samples  int
}

// part is something that can be measured by itself.
type part struct {
	name string
	run  func(context.Context, *lab, settings, *rig.Report) error
}

// parts are in the order in which all of it is measured.
var parts = []part{
	{"revocation", revocation},
	{"decommission", decommission},
	{"outage", outage},
	{"million", million},
	{"timing", timing},
}

func main() {
	log.SetFlags(log.Ltime)
	var s settings
	flag.IntVar(&s.replicas, "replicas", 8, "processes that share the database (revocation, decommission)")
	flag.IntVar(&s.events, "events", 40, "revocations under each disturbance, an eighth of it for decommission; 0 for stops only (revocation)")
	flag.IntVar(&s.stops, "stops", 8, "how often a replica is stopped for 1.3 s, and a quarter of it for 5 s (revocation)")
	flag.DurationVar(&s.down, "down", 20*time.Second, "how long the store is down (outage)")
	flag.StringVar(&s.keys, "keys", "100000,1000000", "numbers of keys (million)")
	flag.IntVar(&s.samples, "samples", 100_000, "samples of each kind (timing)")
	full := flag.Bool("full", false, "as long as the promises are: 200 revocations each, fifty stops, two minutes without the store")
	flag.Parse()
	if *full {
		s.events, s.stops, s.down = max(s.events, 200), max(s.stops, 40), max(s.down, 2*time.Minute)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if s.replicas < 2 {
		log.Fatal("-replicas: at least 2")
	}
	r := &rig.Report{}
	err := measure(ctx, s, flag.Args(), r)
	r.Show(os.Stdout)
	if err != nil {
		log.Fatal(err)
	}
	if r.Broken() {
		os.Exit(1)
	}
}

// measure runs the parts that were asked for.
func measure(ctx context.Context, s settings, only []string, r *rig.Report) error {
	for _, name := range only {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("no part %q: revocation, decommission, outage, million, timing", name)
		}
	}
	l, err := newLab(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	for _, p := range parts {
		if len(only) > 0 && !slices.Contains(only, p.name) {
			continue
		}
		log.Printf("%s …", p.name)
		err := p.run(ctx, l, s, r)
		if errors.Is(err, pgtest.ErrNone) {
			r.Add(rig.Row{Part: p.name, What: "all", Figure: "none", Verdict: rig.Skipped, Remark: err.Error()})
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return ctx.Err()
}
