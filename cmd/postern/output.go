package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// format is how a command prints.
type format string

var formats = []string{"table", "json", "yaml"}

// String, Set and Type implement pflag.Value: a format that does not exist is
// refused before anything is asked.
func (f *format) String() string { return string(*f) }
func (*format) Type() string     { return "format" }
func (f *format) Set(s string) error {
	if !slices.Contains(formats, s) {
		return errors.New("use table, json or yaml")
	}
	*f = format(s)
	return nil
}

// outputFlag adds -o to a command.
func outputFlag(cmd *cobra.Command, f *format) {
	*f = "table"
	cmd.Flags().VarP(f, "output", "o", "how to print: table, json or yaml")
	completions(cmd, "output", formats...)
}

// completions tells shells the values of a flag.
func completions(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// row is a line of a table: a name and a value.
type row struct{ name, value string }

// render prints a message in the format, or its rows as a table; rows without a
// value are left out.
func render(w io.Writer, f format, m proto.Message, rows func() []row) error {
	if f != "table" {
		return encode(w, f, m)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows() {
		if r.value != "" {
			fmt.Fprintf(t, "%s\t%s\n", r.name, printable(r.value))
		}
	}
	return t.Flush()
}

// encode writes a message as stable JSON or YAML: protojson alone varies its
// spaces on purpose.
func encode(w io.Writer, f format, m proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	if f == "yaml" {
		e := yaml.NewEncoder(w)
		e.SetIndent(2)
		if err := e.Encode(v); err != nil {
			return err
		}
		return e.Close()
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printable shows what is not plainly visible as escapes: what a request held must
// neither move a terminal's cursor nor turn its text around.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	q := strconv.QuoteToGraphic(s)
	return q[1 : len(q)-1]
}
