package main

import (
	"fmt"
	"io"
	"log"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// cost is what the checks of one kind cost, beside the stock server.
type cost struct {
	name, remark string
	cold, warm   compared
	// samples is how many credentials were cold, and noWarm says that none can be warm.
	samples int
	noWarm  bool
}

// row is a line of the table of cases: what was asked, what may be, what was.
type row struct {
	name, what, asked, limit, figure string
	kept                             bool
	// goal says that this should hold, not that it must.
	goal   bool
	remark string
}

func (r *row) verdict() string {
	switch {
	case r.goal && r.kept:
		return "reached"
	case r.goal:
		return "missed"
	case r.kept:
		return "kept"
	}
	return "BROKEN"
}

// report is everything that a run measured.
type report struct {
	costs []cost
	rows  []row
}

func (r *report) addCost(c cost) {
	r.costs = append(r.costs, c)
	log.Printf("%s: cold %.0f µs, warm %.0f µs, stock %.0f µs", c.name, c.cold.cpu, c.warm.cpu, c.cold.stock)
}

func (r *report) add(x row) {
	r.rows = append(r.rows, x)
	log.Printf("%s: %s: %s  %s  %s", x.name, x.what, x.figure, x.verdict(), x.remark)
}

func (r *report) broken() bool {
	return slices.ContainsFunc(r.rows, func(x row) bool { return !x.goal && !x.kept })
}

func (r *report) show(out io.Writer) {
	if len(r.costs)+len(r.rows) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s, %s\n", rig.Machine(), time.Now().UTC().Format(time.RFC3339))
	if len(r.costs) > 0 {
		fmt.Fprintln(out, "\nServer CPU of a check in µs, × the stock server's beside it; latency for one caller in µs; heap objects.")
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "kind\tcold µs\t×\twarm µs\t×\tstock µs\tcold latency\twarm\tstock\twarm allocs\tstock\tcold samples\t  remarks")
		for i := range r.costs {
			c := &r.costs[i]
			fmt.Fprintf(w, "%s\t%.1f\t%.2f\t", c.name, c.cold.cpu, c.cold.ratio)
			if c.noWarm {
				fmt.Fprintf(w, "–\t–\t%.1f\t%.0f\t–\t%.0f\t–\t%.0f\t", c.cold.stock, c.cold.latency, c.cold.stockLatency, c.cold.stockAllocs)
			} else {
				fmt.Fprintf(w, "%.1f\t%.2f\t%.1f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t", c.warm.cpu, c.warm.ratio, c.warm.stock, c.cold.latency, c.warm.latency, c.warm.stockLatency, c.warm.allocs, c.warm.stockAllocs)
			}
			fmt.Fprintf(w, "%d\t  %s\n", c.samples, c.remark)
		}
		_ = w.Flush()
	}
	if len(r.rows) > 0 {
		fmt.Fprintln(out)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "case\tpromise\tasked\tlimit\tmeasured\tverdict\tremarks")
		for i := range r.rows {
			x := &r.rows[i]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.name, x.what, x.asked, x.limit, x.figure, x.verdict(), x.remark)
		}
		_ = w.Flush()
	}
}
