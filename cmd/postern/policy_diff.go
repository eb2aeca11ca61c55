package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/server/strictyaml"
)

// comparison is what `postern policy diff` says.
type comparison struct {
	Old       string          `json:"old" yaml:"old"`
	New       string          `json:"new" yaml:"new"`
	Decisions int             `json:"decisions" yaml:"decisions"`
	Changed   int             `json:"changed" yaml:"changed"`
	Skipped   int             `json:"skipped" yaml:"skipped"`
	Untold    int             `json:"untold" yaml:"untold"`
	Drifted   int             `json:"drifted" yaml:"drifted"`
	Why       map[string]int  `json:"why_untold" yaml:"why_untold"`
	ByRule    []author.Count  `json:"by_rule" yaml:"by_rule"`
	ByRoute   []author.Count  `json:"by_route" yaml:"by_route"`
	Changes   []author.Change `json:"changes" yaml:"changes"`
}

func policyDiffCommand() *cobra.Command {
	var d desk
	var output format
	var replay, principals string
	var limit int
	var allowUntold bool
	cmd := &cobra.Command{
		Use:   "diff [OLD] NEW",
		Short: "Say which recorded decisions a new policy would change",
		Long: `Evaluates recorded decisions by two policies, each a directory or a bundle, and lists
those that would fall otherwise, counted by rule and by route. Without OLD, the
recorded answers themselves are compared. The records are lines of OPA's decision
log, lines of Postern's log (JSON), or what ` + "`postern explain -o json`" + ` prints. The time
of a decision is that of its record.

A record that does not hold what a policy reads, because it was masked or never
written, is counted as untold. Postern's log only names who called: --principals says
what they hold, and -c what its routes ask for. Header fields that carry credentials are never shown to a policy and
never printed.

The exit status is 0 if nothing changes, 1 if something does, and 2 if that cannot be
told of some records (unless --allow-untold) or of all.`,
		Example: `  postern policy diff --replay decisions.jsonl policy new-policy
  postern policy diff --replay decisions.jsonl shop-7.tar.gz shop-8.tar.gz -o json
  postern policy diff --replay postern.log --principals people.yaml policy new-policy
  zcat decisions.jsonl.gz | postern policy diff --replay - new-policy`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if replay == "" {
				return errors.New("name the recorded decisions: --replay FILE")
			}
			r, err := d.replay(cmd, args, principals)
			if err != nil {
				return err
			}
			if r.Keep = limit; output != "table" && !cmd.Flags().Changed("limit") {
				r.Keep = 0
			}
			if err := replayFile(cmd, r, replay); err != nil {
				return err
			}
			if err := printComparison(cmd.OutOrStdout(), output, compared(r, args)); err != nil {
				return err
			}
			return replayStatus(cmd.ErrOrStderr(), r, allowUntold)
		},
	}
	d.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&replay, "replay", "", "file with the recorded decisions, - for standard input")
	f.StringVar(&principals, "principals", "", "YAML file with the principals that Postern's log only names")
	f.IntVar(&limit, "limit", 50, "the most changes to list; 0 lists all")
	f.BoolVar(&allowUntold, "allow-untold", false, "accept records of which nothing can be told")
	_ = cmd.MarkFlagFilename("replay", "json", "jsonl", "log")
	_ = cmd.MarkFlagFilename("principals", "yaml", "yml")
	outputFlag(cmd, &output)
	return cmd
}

// replay makes the policies ready.
func (d *desk) replay(cmd *cobra.Command, args []string, principals string) (*author.Replay, error) {
	r := &author.Replay{}
	var err error
	if _, r.New, err = d.compile(cmd, args[len(args)-1:]); err != nil {
		return nil, err
	}
	if len(args) == 2 {
		if _, r.Old, err = d.compile(cmd, args[:1]); err != nil {
			return nil, err
		}
	}
	r.Routes = d.routes
	if principals == "" {
		return r, nil
	}
	text, err := readBundle(principals)
	if err != nil {
		return nil, err
	}
	var file struct {
		Principals []author.Principal `yaml:"principals,required"`
	}
	if err := strictyaml.Decode(principals, text, &file, strictyaml.WithMaxSize(maxImport)); err != nil {
		return nil, err
	}
	r.Principals = file.Principals
	return r, nil
}

func replayFile(cmd *cobra.Command, r *author.Replay, name string) error {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	shown := newWatch(cmd)
	defer shown.end()
	err := author.ReadRecords(in, func(rec *author.Record) error {
		shown.say("%d decisions, %d would change", r.Decisions, r.Changed)
		return r.Add(cmd.Context(), rec)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// replayStatus is the exit status.
func replayStatus(w io.Writer, r *author.Replay, allowUntold bool) error {
	switch {
	case r.Changed > 0:
		return &exitError{exitDeny}
	case r.Decisions == 0:
		return author.ErrNothing
	case r.Untold > 0 && !allowUntold:
		complain(w, fmt.Errorf("of %s nothing can be told; --allow-untold accepts that", plural(r.Untold, "decision")))
		return &exitError{exitFault}
	}
	return nil
}

func compared(r *author.Replay, args []string) *comparison {
	c := &comparison{
		Old: "as recorded", New: args[len(args)-1], Decisions: r.Decisions, Changed: r.Changed, Skipped: r.Skipped, Untold: r.Untold,
		Drifted: r.Drifted, Why: r.WhyUntold, ByRule: r.ByRule(), ByRoute: r.ByRoute(), Changes: r.Changes,
	}
	if len(args) == 2 {
		c.Old = args[0]
	}
	if c.Changes == nil {
		c.Changes = []author.Change{}
	}
	if c.Why == nil {
		c.Why = map[string]int{}
	}
	return c
}

func printComparison(w io.Writer, output format, c *comparison) error {
	if output != "table" {
		return encodeValue(w, output, c)
	}
	rows := [][]string{}
	for _, x := range c.Changes {
		at := ""
		if !x.Time.IsZero() {
			at = formatTime(x.Time)
		}
		rows = append(rows, []string{strconv.Itoa(x.Line), at, x.What, strings.TrimSpace(x.Method + " " + x.Host + x.Path), x.Principal, cmp.Or(x.New.Error, x.New.Rule, x.Old.Rule, x.New.Reason)})
	}
	if len(rows) > 0 {
		if err := printTable(w, []string{"LINE", "TIME", "CHANGE", "REQUEST", "PRINCIPAL", "RULE"}, rows); err != nil {
			return err
		}
		if n := c.Changed - len(rows); n > 0 {
			fmt.Fprintf(w, "… and %d more; --limit shows them\n", n)
		}
		fmt.Fprintln(w)
		if err := printCounts(w, "RULE", c.ByRule); err != nil {
			return err
		}
		fmt.Fprintln(w)
		if err := printCounts(w, "ROUTE", c.ByRoute); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%s, %d would change\n", plural(c.Decisions, "decision"), c.Changed)
	return c.printRest(w)
}

func printCounts(w io.Writer, what string, counts []author.Count) error {
	rows := [][]string{}
	for _, n := range counts {
		rows = append(rows, []string{strconv.Itoa(n.N), n.What, n.Where})
	}
	return printTable(w, []string{"COUNT", "CHANGE", what}, rows)
}

func (c *comparison) printRest(w io.Writer) error {
	if c.Skipped > 0 {
		fmt.Fprintf(w, "%s never got to the policy, or ended in a fault\n", plural(c.Skipped, "record"))
	}
	for _, why := range author.Reasons(c.Why) {
		fmt.Fprintf(w, "of %s nothing can be told: %s\n", plural(c.Why[why], "decision"), printable(why))
	}
	if c.Drifted > 0 {
		fmt.Fprintf(w, "%s would already fall otherwise than recorded: the policy or its data has changed since\n", plural(c.Drifted, "decision"))
	}
	return nil
}
