// Command bench measures Postern against a stock grpc-go ext_authz server that
// says OK to everything: both are started from this checkout, get the same
// request from the same client in turns, and are compared turn by turn, so that
// a noisy machine disturbs both alike.
//
//	go run ./bench                       all of it, a few minutes
//	go run ./bench -only warm-jwt -rounds 9
//	go run ./bench -json results.json
//
// Server CPU is what the kernel charged the process; allocations are the
// runtime's own count; latencies are those of a closed loop of callers.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// settings are the command's flags.
type settings struct {
	only        string
	rounds      int
	turn        time.Duration
	concurrency int
	connections int
	json        string
}

// Report is everything that a run measured.
type Report struct {
	When      time.Time
	Machine   string
	Scenarios []ScenarioResult
	Startup   []StartupResult
	BinaryMiB float64
	RSAMicros float64
}

func main() {
	log.SetFlags(0)
	var s settings
	flag.StringVar(&s.only, "only", "", "run the scenarios whose name contains this, or \"startup\"")
	flag.IntVar(&s.rounds, "rounds", 5, "turns of each server in a scenario")
	flag.DurationVar(&s.turn, "turn", 3*time.Second, "length of a turn")
	flag.IntVar(&s.concurrency, "concurrency", 16, "callers at the same time")
	flag.IntVar(&s.connections, "connections", 2, "connections that they share")
	flag.StringVar(&s.json, "json", "", "write the results to this file as well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, s); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, s settings) error {
	lab, err := newLab(ctx)
	if err != nil {
		return err
	}
	defer lab.close()
	report := Report{
		When:    time.Now().UTC(),
		Machine: rig.Machine(),
	}
	if report.BinaryMiB, err = lab.binaryMiB(); err != nil {
		return err
	}
	report.RSAMicros = rsaMicros(lab.fixture)
	if strings.Contains("startup", s.only) {
		if report.Startup, err = lab.startup(ctx); err != nil {
			return err
		}
	}
	if report.Scenarios, err = lab.scenarios(ctx, s); err != nil {
		return err
	}
	show(&report)
	if s.json == "" {
		return nil
	}
	out, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.json, append(out, '\n'), 0o644)
}

func show(r *Report) {
	fmt.Printf("%s\n%s\nbinary %.1f MiB; one RSA-2048 verification %.1f µs\n\n", r.When.Format(time.RFC3339), r.Machine, r.BinaryMiB, r.RSAMicros)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	if len(r.Scenarios) > 0 {
		fmt.Fprintln(w, "scenario\tserver CPU µs\tstock µs\tratio (min–max)\tallocs\tstock\treq/s\tstock\tp50 µs\tstock\tp99 µs\tstock\t")
		for _, x := range r.Scenarios {
			fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2f (%.2f–%.2f)\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", x.Name,
				x.Postern.CPU, x.Stock.CPU, x.Ratio, x.RatioMin, x.RatioMax, x.Postern.Allocs, x.Stock.Allocs,
				x.Postern.Rate, x.Stock.Rate, x.Postern.P50, x.Stock.P50, x.Postern.P99, x.Stock.P99)
		}
		fmt.Fprintln(w)
	}
	if len(r.Startup) > 0 {
		fmt.Fprintln(w, "start\tto first answer ms\tidle RSS MiB\t")
		for _, x := range r.Startup {
			fmt.Fprintf(w, "%s\t%.0f\t%.1f\t\n", x.Name, x.FirstAnswerMS, x.RSSMiB)
		}
	}
}
