package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy/author"
)

// testReport is what `postern policy test` says.
type testReport struct {
	Passed  int             `json:"passed" yaml:"passed"`
	Failed  int             `json:"failed" yaml:"failed"`
	Errors  int             `json:"errors" yaml:"errors"`
	Skipped int             `json:"skipped" yaml:"skipped"`
	Took    time.Duration   `json:"took_ns" yaml:"took_ns"`
	Tests   []author.Result `json:"tests" yaml:"tests"`
}

func (r *testReport) count(result author.Result) {
	switch result.Outcome {
	case author.Pass:
		r.Passed++
	case author.Fail:
		r.Failed++
	case author.Skip:
		r.Skipped++
	default:
		r.Errors++
	}
}

func (r *testReport) good() bool { return r.Failed+r.Errors == 0 }

func policyTestCommand() *cobra.Command {
	var d desk
	var output format
	var run string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "test [DIR|BUNDLE] [TABLE]...",
		Short: "Run the tests of a policy: Rego and tables",
		Long: `Runs what lies beside the policy to test it: rules named test_… in *_test.rego, and
tables in *_test.yaml, of requests with the answers that are wanted. Further tables
can be named. A request of a table goes the whole way: it is read like one from a
gateway, and decided with the decision cache. See docs/policy-authors.md.

The exit status is 0 if all pass, 1 if one fails, and 2 if they could not be run or
there are none.`,
		Example: `  postern policy test policy
  postern policy test policy --run refund -v
  postern policy test -c postern.yaml
  postern policy test shop.tar.gz staging.yaml --json`,
		Args: arguments(0, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, p, tests, match, err := d.prepare(cmd, args, run)
			if err != nil {
				return err
			}
			report, err := runTests(cmd, p, tests, match, nil)
			if err != nil {
				return s.placed(err)
			}
			if err := printTests(cmd.OutOrStdout(), output, s, report, verbose); err != nil {
				return err
			}
			switch {
			case len(report.Tests) == 0:
				return noTests(run)
			case !report.good():
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&run, "run", "", "only the tests whose name matches this regular expression")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print all tests, and what they print")
	outputFlag(cmd, &output)
	jsonFlag(cmd, &output)
	return cmd
}

func noTests(run string) error {
	if run != "" {
		return fmt.Errorf("no test matches %q", run)
	}
	return errors.New("there are no tests: write *_test.rego or *_test.yaml beside the policy")
}

// prepare compiles a policy and reads its tests.
func (d *desk) prepare(cmd *cobra.Command, args []string, run string) (*source, *author.Policy, *author.Tests, *regexp.Regexp, error) {
	var match *regexp.Regexp
	var err error
	if run != "" {
		if match, err = regexp.Compile(run); err != nil {
			return nil, nil, nil, nil, fmt.Errorf("--run: %w", err)
		}
	}
	s, p, err := d.compile(cmd, args)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	var tables []string
	if len(args) > 1 {
		tables = args[1:]
	}
	tests, err := s.tests(tables)
	return s, p, tests, match, err
}

func runTests(cmd *cobra.Command, p *author.Policy, tests *author.Tests, match *regexp.Regexp, seen *author.Coverage) (*testReport, error) {
	report, shown := &testReport{Tests: []author.Result{}}, newWatch(cmd)
	defer shown.end()
	begin := time.Now()
	results, err := tests.Run(cmd.Context(), p, match, seen, func(r author.Result) {
		report.count(r)
		shown.say("%d passed, %d failed", report.Passed, report.Failed+report.Errors)
	})
	report.Took = time.Since(begin)
	report.Tests = append(report.Tests, results...)
	return report, err
}

// printTests prints as `go test` does.
func printTests(w io.Writer, output format, s *source, r *testReport, verbose bool) error {
	for i := range r.Tests {
		r.Tests[i].File = s.place(r.Tests[i].File)
	}
	if output != "table" {
		return encodeValue(w, output, r)
	}
	var b strings.Builder
	for _, t := range r.Tests {
		if t.Outcome == author.Pass && !verbose {
			continue
		}
		fmt.Fprintf(&b, "--- %s: %s (%.2fs)\n", strings.ToUpper(string(t.Outcome)), printable(t.Name), t.Took.Seconds())
		for _, why := range t.Why {
			fmt.Fprintf(&b, "    %s:%d: %s\n", t.File, t.Line, printable(why))
		}
		for line := range strings.Lines(t.Output) {
			fmt.Fprintf(&b, "    %s\n", printable(strings.TrimRight(line, "\n")))
		}
	}
	if n := len(r.Tests); n > 0 {
		word := "ok  "
		if !r.good() {
			word = "FAIL"
		}
		fmt.Fprintf(&b, "%s  %s  %s in %.2fs\n", word, s.name, r.summary(), r.Took.Seconds())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *testReport) summary() string {
	parts := []string{fmt.Sprintf("%d passed", r.Passed)}
	for _, c := range []struct {
		n    int
		what string
	}{{r.Failed, "failed"}, {r.Errors, "could not be run"}, {r.Skipped, "skipped"}} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	return strings.Join(parts, ", ")
}

// coverReport is what `postern policy cover` says.
type coverReport struct {
	Percent   float64               `json:"percent" yaml:"percent"`
	Threshold float64               `json:"threshold,omitempty" yaml:"threshold,omitempty"`
	Files     []author.FileCoverage `json:"files" yaml:"files"`
}

func policyCoverCommand() *cobra.Command {
	var d desk
	var output format
	var run string
	var threshold float64
	cmd := &cobra.Command{
		Use:   "cover [DIR|BUNDLE] [TABLE]...",
		Short: "Say which lines of a policy no test reaches",
		Long: `Runs the tests of a policy, those in Rego and those in tables, and prints how much of
it they evaluate, and the lines that they do not. The exit status is 1 if that is
less than --threshold, or if a test fails.`,
		Example: `  postern policy cover policy
  postern policy cover policy --threshold 90
  postern policy cover -c postern.yaml -o json`,
		Args: arguments(0, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if threshold < 0 || threshold > 100 {
				return errors.New("--threshold is a number of percent, 0 to 100")
			}
			s, p, tests, match, err := d.prepare(cmd, args, run)
			if err != nil {
				return err
			}
			seen := author.NewCoverage()
			tested, err := runTests(cmd, p, tests, match, seen)
			switch {
			case err != nil:
				return s.placed(err)
			case len(tested.Tests) == 0:
				return noTests(run)
			case !tested.good():
				if err := printTests(cmd.ErrOrStderr(), "table", s, tested, false); err != nil {
					return err
				}
				return &exitError{exitDeny}
			}
			report := coverReport{Threshold: threshold}
			report.Files, report.Percent = seen.Report(p)
			if err := report.print(cmd.OutOrStdout(), output, s); err != nil {
				return err
			}
			if report.Percent < threshold {
				complain(cmd.ErrOrStderr(), fmt.Errorf("%.1f%% is less than the threshold of %g%%", report.Percent, threshold))
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&run, "run", "", "only the tests whose name matches this regular expression")
	cmd.Flags().Float64Var(&threshold, "threshold", 0, "the least that is good enough, in percent")
	outputFlag(cmd, &output)
	return cmd
}

func (r *coverReport) print(w io.Writer, output format, s *source) error {
	for i := range r.Files {
		r.Files[i].File = s.place(r.Files[i].File)
	}
	if output != "table" {
		if r.Files == nil {
			r.Files = []author.FileCoverage{}
		}
		return encodeValue(w, output, r)
	}
	rows := [][]string{}
	for _, f := range r.Files {
		rows = append(rows, []string{f.File, fmt.Sprintf("%.1f%%", f.Percent), lineRanges(f.Lines)})
	}
	if err := printTable(w, []string{"FILE", "COVERED", "NOT REACHED"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\ntotal  %.1f%%\n", r.Percent)
	return err
}

// lineRanges are lines as people write them: 3, 7-9.
func lineRanges(lines [][2]int) string {
	var all []string
	for _, l := range lines {
		if l[0] == l[1] {
			all = append(all, fmt.Sprint(l[0]))
		} else {
			all = append(all, fmt.Sprintf("%d-%d", l[0], l[1]))
		}
	}
	return strings.Join(all, ", ")
}
