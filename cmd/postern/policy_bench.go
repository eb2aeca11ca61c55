package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/server/canonical"
)

// benchLine is what one request costs.
type benchLine struct {
	Request  string           `json:"request" yaml:"request"`
	Decision string           `json:"decision" yaml:"decision"`
	Costs    []author.Measure `json:"costs" yaml:"costs"`
	Note     string           `json:"note,omitempty" yaml:"note,omitempty"`
}

func policyBenchCommand() *cobra.Command {
	var d desk
	var c caller
	var output format
	var table string
	var each time.Duration
	cmd := &cobra.Command{
		Use:   "bench DIR|BUNDLE [[METHOD] URL]",
		Short: "Measure how long a decision takes, evaluated and remembered",
		Long: `Decides one request, or each of a table of tests, over and over: evaluated each time
(miss), and from the decision cache (hit), if such decisions can be remembered.
Prints nanoseconds, allocations and bytes for each decision. The times are those of
this machine, and of whatever else it does.`,
		Example: `  postern policy bench policy https://shop.test/orders/7 --id ann --role reader
  postern policy bench policy --table policy/orders_test.yaml --time 200ms
  postern policy bench policy https://shop.test/orders/7 -o json`,
		Args: arguments(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (table == "") == (len(args) == 1) {
				return errors.New("give a request, or a table of them with --table")
			}
			s, p, err := d.compile(cmd, args[:1])
			if err != nil {
				return err
			}
			requests, err := benchRequests(cmd, &c, args[1:], table)
			if err != nil {
				return err
			}
			shown := newWatch(cmd)
			lines := []benchLine{}
			for _, r := range requests {
				shown.say("%s", r.name)
				line, err := r.measure(cmd, p, each)
				if err != nil {
					shown.end()
					return fmt.Errorf("%s: %w", r.name, s.placed(err))
				}
				lines = append(lines, line)
			}
			shown.end()
			return printBench(cmd.OutOrStdout(), output, lines)
		},
	}
	d.flags(cmd)
	c.flags(cmd)
	cmd.Flags().StringVar(&table, "table", "", "table of tests whose requests are measured")
	cmd.Flags().DurationVar(&each, "time", time.Second, "how long to measure each")
	_ = cmd.MarkFlagFilename("table", "yaml", "yml")
	outputFlag(cmd, &output)
	return cmd
}

// benchRequest is a request with a name.
type benchRequest struct {
	name     string
	question *author.Question
}

func benchRequests(cmd *cobra.Command, c *caller, args []string, table string) ([]benchRequest, error) {
	if table == "" {
		q, err := c.question(cmd.InOrStdin(), args)
		if err != nil {
			return nil, err
		}
		return []benchRequest{{q.Request.Method + " " + q.Request.Host + q.Request.Path, q}}, nil
	}
	text, err := readBundle(table)
	if err != nil {
		return nil, err
	}
	t, err := author.ReadTable(table, text)
	if err != nil {
		return nil, err
	}
	var all []benchRequest
	for i := range t.Tests {
		if len(t.Tests[i].Data) == 0 { // with other data, it is another policy
			all = append(all, benchRequest{t.Tests[i].Name, &t.Tests[i].Question})
		}
	}
	if all == nil {
		return nil, fmt.Errorf("%s has no case without data of its own", table)
	}
	return all, nil
}

func (r *benchRequest) measure(cmd *cobra.Command, p *author.Policy, each time.Duration) (benchLine, error) {
	line := benchLine{Request: r.name, Decision: "deny"}
	in, err := r.question.Input()
	if refusal, ok := errors.AsType[*canonical.Refusal](err); ok {
		line.Note = "the request never gets to a policy: " + refusal.Detail
		line.Costs = []author.Measure{}
		return line, nil
	}
	if err != nil {
		return line, err
	}
	v, costs, err := p.Bench(cmd.Context(), in, each)
	if err != nil {
		return line, err
	}
	if line.Costs = costs; v.Allow {
		line.Decision = "allow"
	}
	if !p.Analysis.Cacheable() {
		line.Note = "no decision of this policy can be remembered; see `postern policy analyze`"
	}
	return line, nil
}

func printBench(w io.Writer, output format, lines []benchLine) error {
	if output != "table" {
		return encodeValue(w, output, lines)
	}
	rows := [][]string{}
	for _, l := range lines {
		for _, m := range l.Costs {
			rows = append(rows, []string{l.Request, l.Decision, m.What, fmt.Sprint(m.N), fmt.Sprintf("%.0f", m.NsPerOp), fmt.Sprintf("%.0f", m.AllocsPerOp), fmt.Sprintf("%.0f", m.BytesPerOp)})
		}
	}
	if err := printTable(w, []string{"REQUEST", "DECISION", "CACHE", "N", "NS/OP", "ALLOCS/OP", "B/OP"}, rows); err != nil {
		return err
	}
	for _, l := range lines {
		if l.Note != "" {
			fmt.Fprintf(w, "%s: %s\n", printable(l.Request), l.Note)
		}
	}
	return nil
}
