// Command policy measures the policy plane: what a decision costs by tables of roles,
// what callers notice while policies are put in force, and what they notice of others
// whose policy runs wild.
//
//	go run ./bench/policy                         all of it, about four minutes
//	go run ./bench/policy roles                   ten to 10,000 roles, in process
//	go run ./bench/policy -turn 10s activate      10,000 roles, one activation after the other
//	go run ./bench/policy -for 10s fifty          fifty activations a second
//	go run ./bench/policy -json out.json bombs    policies that want too much
//	go run ./bench/policy -quick                  a few seconds, for CI
//
// The server is the binary that is built from this checkout, in a process of its own.
// It has its policy from a bundle server in this process, signed and over HTTP, as in
// production; who asks it is in this process too, so that server and client share the
// processors. An allow that is wrong, or an answer by two policies, breaks a promise,
// which ends the command with status 1; a goal that is missed does not.
//
// # Whose latency
//
// With an open loop, questions are sent when they are due, whether those before them
// are answered or not, and latency counts from then: the callers of a gateway do not
// wait for each other. What this process itself is late is in it, and is told beside
// it. With a closed loop, each caller waits for its answer, and all of them together
// keep the processors busy all the time. Each load has its turns with and without the
// disturbance, one after the other; the figures are of all turns together.
package main

import (
	"context"
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
	roles   int
	rate    int
	checks  int
	callers int
	turns   int
	turn    time.Duration
	long    time.Duration
	quick   bool
}

// part is something that can be measured by itself.
type part struct {
	name string
	run  func(context.Context, *lab, settings, *rig.Report) error
}

// parts are in the order in which all of it is measured.
var parts = []part{
	{"roles", roles},
	{"activate", activate},
	{"fifty", fifty},
	{"bombs", bombs},
}

const examples = `
examples:
  go run ./bench/policy                         all of it
  go run ./bench/policy roles                   what a decision costs
  go run ./bench/policy -turn 10s activate      longer turns
  go run ./bench/policy -for 10s fifty          shorter than the minute that is promised
  go run ./bench/policy -checks 1000 fifty      for a machine with other work on it
  go run ./bench/policy -quick -json out.json   a few seconds

Status 0: every promise was kept. 1: one was broken, or something could not be measured.
`

func main() {
	log.SetFlags(log.Ltime)
	var s settings
	f := flag.NewFlagSet("policy", flag.ExitOnError)
	f.IntVar(&s.roles, "roles", 10_000, "roles of the bundles, each with a route (activate)")
	f.IntVar(&s.rate, "rate", 2000, "questions a second of an open loop (activate; bombs: half as many)")
	f.IntVar(&s.checks, "checks", 5000, "questions a second (fifty)")
	f.IntVar(&s.callers, "callers", 4, "callers of a closed loop")
	f.IntVar(&s.turns, "turns", 3, "turns of each load with and without the disturbance (activate, bombs)")
	f.DurationVar(&s.turn, "turn", 5*time.Second, "length of a turn (activate, bombs)")
	f.DurationVar(&s.long, "for", time.Minute, "how long (fifty)")
	f.BoolVar(&s.quick, "quick", false, "only as long as it takes to see that it works; figures mean little")
	out := f.String("json", "", "write the results to this file as well")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "Measures decisions, activations and hostile policies. Run it in the checkout.\n\nusage: go run ./bench/policy [flags] [%s]...\n\n", strings.Join(names(), "|"))
		f.PrintDefaults()
		fmt.Fprint(f.Output(), examples)
	}
	_ = f.Parse(os.Args[1:]) // it exits
	if s.quick {
		s.turns, s.turn, s.long, s.rate, s.checks, s.roles = 1, 500*time.Millisecond, time.Second, 200, 200, 1000
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	r := &rig.Report{}
	err := measure(ctx, s, f.Args(), r)
	stop()
	r.Show(os.Stdout)
	if *out != "" && err == nil {
		err = r.WriteJSON(*out)
	}
	switch {
	case err != nil:
		log.Fatal(err)
	case r.Broken():
		os.Exit(1)
	}
}

func names() (all []string) {
	for _, p := range parts {
		all = append(all, p.name)
	}
	return all
}

func (s *settings) check(only []string) error {
	switch {
	case s.roles < fewRoles:
		return fmt.Errorf("-roles: at least %d", fewRoles)
	case s.rate < 10 || s.checks < 10 || s.callers < 1 || s.turns < 1 || s.turn < 100*time.Millisecond || s.long < time.Second:
		return fmt.Errorf("at least -rate 10, -checks 10, -callers 1, -turns 1, -turn 100ms and -for 1s")
	}
	for _, name := range only {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("no part %q: %s", name, strings.Join(names(), ", "))
		}
	}
	return nil
}

// measure runs the parts that were asked for. The report holds what was done before an
// error.
func measure(ctx context.Context, s settings, only []string, r *rig.Report) error {
	if err := s.check(only); err != nil {
		return err
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
		if err := p.run(ctx, l, s, r); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return ctx.Err()
}
