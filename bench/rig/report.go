package rig

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Verdict is what a figure means.
type Verdict string

// The verdicts. Only Broken makes a report Broken.
const (
	Kept    Verdict = "kept"
	Broken  Verdict = "BROKEN"
	Reached Verdict = "reached"
	Missed  Verdict = "missed"
	Skipped Verdict = "skipped"
)

// Promise is the verdict on what must hold.
func Promise(holds bool) Verdict {
	if holds {
		return Kept
	}
	return Broken
}

// Goal is the verdict on what should.
func Goal(holds bool) Verdict {
	if holds {
		return Reached
	}
	return Missed
}

// Row is a line of the table at the end.
type Row struct {
	Part, What, Figure, Wanted string
	Verdict                    Verdict // empty: there is nothing to hold the figure against
	// Remark is what else was seen.
	Remark string
}

// Report is everything that a run measured.
type Report struct{ Rows []Row }

// Add takes a row and logs it, as progress.
func (r *Report) Add(line Row) {
	r.Rows = append(r.Rows, line)
	log.Printf("  %s: %s  %s  %s", line.What, line.Figure, line.Verdict, line.Remark)
}

// Broken reports whether a promise is.
func (r *Report) Broken() bool {
	return slices.ContainsFunc(r.Rows, func(x Row) bool { return x.Verdict == Broken })
}

// Machine says on what figures were measured.
func Machine() string {
	return fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}

// Show prints the table, if there is anything in it.
func (r *Report) Show(out io.Writer) {
	if len(r.Rows) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s, %s\n\n", Machine(), time.Now().UTC().Format(time.RFC3339))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "part\tcase\tfigure\twanted\tverdict\tremarks")
	for _, x := range r.Rows {
		fmt.Fprintln(w, strings.Join([]string{x.Part, x.What, x.Figure, x.Wanted, string(x.Verdict), x.Remark}, "\t"))
	}
	_ = w.Flush()
}

// WriteJSON writes when and where it was measured, and the rows, into a file.
func (r *Report) WriteJSON(name string) error {
	out, err := json.MarshalIndent(struct {
		When    time.Time
		Machine string
		Rows    []Row
	}{time.Now().UTC(), Machine(), r.Rows}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(out, '\n'), 0o644)
}
