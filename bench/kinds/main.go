// Command kinds measures what each kind of credential costs, and how the server bears
// what attackers do with it.
//
//	go run ./bench/kinds                      all of it, less than a minute
//	go run ./bench/kinds -only mtls           kinds and cases whose name contains this
//	go run ./bench/kinds -samples small       quick and rough, for a look or for CI
//	go run ./bench/kinds -samples 5000        requests of each turn
//	go run ./bench/kinds -keep /tmp/kinds     leave configuration and binary there
//
// One server with one configuration has every kind. It is the built binary in a
// process of its own; what it talks to are an authorization server and a Vault in this
// process, over TLS, and a real redis-server if the machine has one.
//
// # Costs
//
// cold is the first sight of a credential: each request brings another one. The server
// has been up for a while, its keys are fetched and its connections are open. warm is a
// credential that was seen before. Proofs and tokens that may be used once are signed
// before the clock starts. Every request is sent to a stock grpc-go ext_authz server as
// well, which says OK to everything, in turns, so that a noisy machine disturbs both
// alike; × is how many times its cost a check is. CPU is what the kernel charged the
// server's process for a request while 16 callers ask; latency is the median that one
// lone caller sees, and holds what others take to answer. Each answer is looked at: one
// that is not an allow ends the command.
//
// # Cases
//
//	random-kids    10,000 tokens with random kids; a fetch of keys per cooldown at most
//	one-flight     1,000 callers with the same cold token at once; one introspection
//	basic-flood    1,000 bad Basic logins at once, three times; memory bounded, and a
//	               JWT takes no more than twice as long (median)
//
// A broken promise ends the command with status 1. Mean and 99th percentile during the
// flood are goals: they say "missed" and leave the status alone.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"strings"
)

// settings are the command's flags.
type settings struct {
	only    string
	samples int
	keep    string
}

// The numbers of samples that have a name.
const (
	small  = 300
	normal = 1500
)

// wants reports whether something of that name is to be measured.
func (s *settings) wants(name string) bool { return strings.Contains(name, s.only) }

func main() {
	log.SetFlags(log.Ltime)
	s := settings{samples: normal}
	f := flag.NewFlagSet("kinds", flag.ExitOnError)
	f.StringVar(&s.only, "only", "", "measure the kinds and cases whose name contains this: "+strings.Join(names(), ", "))
	f.Func("samples", fmt.Sprintf("requests of each turn, or small (%d) or normal (%d, the default)", small, normal), s.setSamples)
	f.StringVar(&s.keep, "keep", "", "directory for the configuration and the binary, which then stay; the binary has its symbols, for perf")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "Measures what each kind of credential costs, and three attacks. Run it in the checkout.\n\nusage: go run ./bench/kinds [flags]\n\n")
		f.PrintDefaults()
		fmt.Fprintf(f.Output(), "\nStatus 0: every promise was kept. 1: one was broken, or something could not be measured.\n")
	}
	_ = f.Parse(os.Args[1:]) // it exits
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	r, err := measure(ctx, s)
	stop()
	r.show(os.Stdout)
	switch {
	case err != nil:
		log.Fatal(err)
	case r.broken():
		os.Exit(1)
	}
}

func (s *settings) setSamples(text string) (err error) {
	switch text {
	case "small":
		s.samples = small
	case "normal":
		s.samples = normal
	default:
		if s.samples, err = strconv.Atoi(text); err == nil && (s.samples < 10 || s.samples > 100_000) {
			err = fmt.Errorf("from 10 to 100000")
		}
	}
	return err
}

// names are those that -only can name.
func names() (all []string) {
	for _, k := range kinds {
		all = append(all, k.name)
	}
	for _, c := range cases {
		all = append(all, c.name)
	}
	return all
}

// measure runs what was asked for. The report holds what was done before an error.
func measure(ctx context.Context, s settings) (*report, error) {
	r := &report{}
	wanted := false
	for _, name := range names() {
		wanted = wanted || s.wants(name)
	}
	if !wanted {
		return r, fmt.Errorf("-only %s: there is %s", s.only, strings.Join(names(), ", "))
	}
	w, err := newWorld(ctx, s)
	if err != nil {
		return r, err
	}
	defer w.close()
	for _, k := range kinds {
		if !s.wants(k.name) {
			continue
		}
		c, err := w.cost(ctx, k)
		if err != nil {
			return r, fmt.Errorf("%s: %w\n%s", k.name, err, w.postern.Said())
		}
		r.addCost(c)
	}
	for _, c := range cases {
		if !s.wants(c.name) {
			continue
		}
		if err := c.run(ctx, w, r); err != nil {
			return r, fmt.Errorf("%s: %w\n%s", c.name, err, w.postern.Said())
		}
	}
	return r, ctx.Err()
}
