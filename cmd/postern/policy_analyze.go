package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/rego"
)

// analysis is what `postern policy analyze` says.
type analysis struct {
	Entrypoint string `json:"entrypoint" yaml:"entrypoint"`
	Revision   string `json:"revision" yaml:"revision"`
	// Cacheable says that decisions can be remembered, and ByTheSecond for no longer
	// than the second.
	Cacheable  bool       `json:"cacheable" yaml:"cacheable"`
	BySecond   bool       `json:"by_the_second" yaml:"by_the_second"`
	WholeInput bool       `json:"whole_input" yaml:"whole_input"`
	Reads      []string   `json:"reads" yaml:"reads"`
	Stops      []reasonAt `json:"stops_caching" yaml:"stops_caching"`
	ReadsClock []reasonAt `json:"reads_clock" yaml:"reads_clock"`
	ReadsAll   []reasonAt `json:"reads_whole_input" yaml:"reads_whole_input"`
}

// reasonAt is a place of a policy and what it does there.
type reasonAt struct {
	File string `json:"file" yaml:"file"`
	Line int    `json:"line" yaml:"line"`
	Rule string `json:"rule" yaml:"rule"`
	Why  string `json:"why" yaml:"why"`
}

func policyAnalyzeCommand() *cobra.Command {
	var d desk
	var output format
	cmd := &cobra.Command{
		Use:   "analyze [DIR|BUNDLE]",
		Short: "Show what a decision depends on, and what keeps it out of the cache",
		Long: `Prints which places of the input the decision can read: two requests that agree on
them share one entry of the decision cache. Prints too, by file and line, which rules
read the clock, which read the whole input, and which keep all decisions out of the
cache.

The exit status is 0 if decisions can be remembered, and 1 if they cannot.`,
		Example: `  postern policy analyze policy
  postern policy analyze -c postern.yaml
  postern policy analyze shop.tar.gz -o json`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, p, err := d.compile(cmd, args)
			if err != nil {
				return err
			}
			a := analysisOf(s, p)
			if err := a.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			if !a.Cacheable {
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	d.flags(cmd)
	outputFlag(cmd, &output)
	return cmd
}

func analysisOf(s *source, p *author.Policy) *analysis {
	found := p.Analysis
	return &analysis{
		Entrypoint: p.Entrypoint, Revision: p.Revision, Cacheable: found.Cacheable(), BySecond: found.TimeBound, WholeInput: found.Whole,
		Reads: author.Reads(found), Stops: s.causes(found.Impure), ReadsClock: s.causes(found.Clock), ReadsAll: s.causes(found.Unbounded),
	}
}

func (s *source) causes(found []rego.Cause) []reasonAt {
	all := make([]reasonAt, len(found))
	for i, c := range found {
		all[i] = reasonAt{File: c.File, Line: c.Line, Rule: c.Rule, Why: c.Why}
		if c.File != "" {
			all[i].File = s.place(c.File)
		}
	}
	return all
}

func (a *analysis) print(w io.Writer, output format) error {
	if output != "table" {
		return encodeValue(w, output, a)
	}
	fmt.Fprintf(w, "%s of %s\n", a.Entrypoint, a.Revision)
	switch {
	case !a.Cacheable:
		fmt.Fprintln(w, "no decision can be remembered")
	case a.BySecond:
		fmt.Fprintln(w, "decisions can be remembered within the second")
	default:
		fmt.Fprintln(w, "decisions can be remembered")
	}
	fmt.Fprintln(w, "\nthe decision reads")
	for _, path := range a.Reads {
		fmt.Fprintf(w, "  %s\n", printable(path))
	}
	if len(a.Reads) == 0 {
		fmt.Fprintln(w, "  nothing of the input")
	}
	for _, part := range []struct {
		heading string
		places  []reasonAt
	}{
		{"what keeps it out of the cache", a.Stops},
		{"what reads the clock, so that it is remembered within the second only", a.ReadsClock},
		{"what reads the whole input, so that requests hardly share an answer", a.ReadsAll},
	} {
		if len(part.places) > 0 {
			fmt.Fprintf(w, "\n%s\n", part.heading)
		}
		for _, at := range part.places {
			fmt.Fprintf(w, "  %s\n", printable(at.String()))
		}
	}
	return nil
}

func (r reasonAt) String() string {
	if r.File == "" {
		return r.Rule + " " + r.Why
	}
	return fmt.Sprintf("%s:%d: %s %s", r.File, r.Line, r.Rule, r.Why)
}
