package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// outputFlag adds -o to a command.
func outputFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "output", "o", "table", "how to print: table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
}

// row is a line of a table: a name and a value.
type row struct{ name, value string }

// render prints a message in the format, or its rows as a table; rows without a
// value are left out.
func render(w io.Writer, format string, m proto.Message, rows func() []row) error {
	switch format {
	case "table":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, r := range rows() {
			if r.value != "" {
				fmt.Fprintf(t, "%s\t%s\n", r.name, printable(r.value))
			}
		}
		return t.Flush()
	case "json", "yaml":
		return encode(w, format, m)
	}
	return fmt.Errorf("unknown output %q: table, json or yaml", format)
}

// encode writes a message as stable JSON or YAML: protojson alone varies its
// spaces on purpose.
func encode(w io.Writer, format string, m proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	if format == "yaml" {
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

// printable shows control characters as escapes: what a request held must not
// move a terminal's cursor.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 || r == 0x2028 || r == 0x2029 }) < 0 {
		return s
	}
	q := fmt.Sprintf("%+q", s)
	return q[1 : len(q)-1]
}
