package main

import (
	"cmp"
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
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
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
	return printRows(w, rows())
}

func printRows(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if r.value != "" {
			fmt.Fprintf(t, "%s\t%s\n", r.name, printable(r.value))
		}
	}
	return t.Flush()
}

// encode writes a message as stable JSON or YAML: protojson alone varies its
// spaces on purpose.
//
// Empty fields are left out, but for those that are said to be always there.
func encode(w io.Writer, f format, m proto.Message, always ...protoreflect.FieldDescriptor) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	for _, list := range always {
		if name := string(list.Name()); v[name] == nil {
			v[name] = []any{}
		}
	}
	return encodeValue(w, f, v)
}

// encodeValue writes JSON, or YAML of the same names.
func encodeValue(w io.Writer, f format, v any) error {
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

// printer prints answers of the admin API.
type printer struct {
	output format
	quiet  bool
}

// flags adds -o, and -q if a secret or a list comes.
func (p *printer) flags(cmd *cobra.Command, res proto.Message, list bool) {
	outputFlag(cmd, &p.output)
	switch {
	case list:
		cmd.Flags().BoolVarP(&p.quiet, "quiet", "q", false, "print only the first column, without a heading")
	case hasSecret(res.ProtoReflect().Descriptor()):
		cmd.Flags().BoolVarP(&p.quiet, "quiet", "q", false, "print only the secret")
	default:
		return
	}
	exclusive(cmd, "quiet", "output")
}

// print prints an answer. A secret comes once, last and on a line of its own.
func (p *printer) print(cmd *cobra.Command, res proto.Message, dryRun bool) error {
	out, secret := cmd.OutOrStdout(), secretOf(res.ProtoReflect())
	if !p.quiet {
		if err := render(out, p.output, res, func() []row { return rowsOf(res.ProtoReflect()) }); err != nil {
			return err
		}
	}
	if dryRun {
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing was changed: this was a dry run")
	}
	if secret == "" || p.output != "table" {
		return nil
	}
	if !p.quiet {
		fmt.Fprintln(cmd.ErrOrStderr(), "keep the secret now: it is not stored, and cannot be shown again")
	}
	_, err := fmt.Fprintln(out, secret)
	return err
}

// printList prints the records of an answer as a table with a heading.
func (p *printer) printList(cmd *cobra.Command, res proto.Message, records protoreflect.FieldDescriptor, columns []string) error {
	out := cmd.OutOrStdout()
	if p.output != "table" {
		return encode(out, p.output, res, records)
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	list := res.ProtoReflect().Get(records).List()
	if p.quiet {
		columns = columns[:1]
	} else {
		line := make([]string, len(columns))
		for i, path := range columns {
			line[i] = strings.ToUpper(label(path))
		}
		fmt.Fprintln(t, strings.Join(line, "\t"))
	}
	for i := range list.Len() {
		line := make([]string, len(columns))
		for j, path := range columns {
			line[j] = cmp.Or(printable(showPath(list.Get(i).Message(), path)), "-")
		}
		fmt.Fprintln(t, strings.Join(line, "\t"))
	}
	return t.Flush()
}

// labels are what people call fields whose name is of the wire.
var labels = map[string]string{
	"display_name": "name", "principal_id": "principal", "owner_id": "owner", "parent_id": "parent",
	"successor_id": "successor", "credential_id": "credential", "expire_time": "expires", "create_time": "created",
	"update_time": "updated", "last_use_time": "last used", "auth_time": "logged in", "number": "change", "end_time": "ends", "begin_time": "begins",
	"grace_end_time": "grace ends", "living_successor_id": "still good", "commit_time": "committed", "effective_time": "known everywhere by", "change_number": "change",
}

func label(path string) string {
	name := path[strings.LastIndexByte(path, '.')+1:]
	return cmp.Or(labels[name], strings.ReplaceAll(name, "_", " "))
}

// rowsOf are the fields of a message that are set, those of the messages in it among
// them. Secrets are left out.
func rowsOf(m protoreflect.Message) (rows []row) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case !m.Has(fd) || redacted(fd):
		case fd.Name() == "predecessor":
			old := m.Get(fd).Message()
			rows = append(rows,
				row{"predecessor", showField(old, fieldOf(old, "id"))},
				row{"predecessor is", showField(old, fieldOf(old, "state"))})
		case isRecord(fd):
			rows = append(rows, rowsOf(m.Get(fd).Message())...)
		default:
			rows = append(rows, row{label(string(fd.Name())), showField(m, fd)})
		}
	}
	return rows
}

// isRecord reports whether a field holds one message with fields of its own, and not
// a value such as a time.
func isRecord(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && !fd.IsList() && !fd.IsMap() && strings.HasPrefix(string(fd.Message().FullName()), "postern.")
}

// redacted reports whether a field holds a secret, as the protocol says itself.
func redacted(fd protoreflect.FieldDescriptor) bool {
	o, ok := fd.Options().(*descriptorpb.FieldOptions)
	return ok && o.GetDebugRedact()
}

// secretOf is the secret that an answer hands over, or "".
func secretOf(m protoreflect.Message) (secret string) {
	for fd, v := range m.Range {
		switch {
		case redacted(fd) && (fd.Name() == "secret" || fd.Name() == "access_token"):
			return v.String()
		case isRecord(fd):
			if secret = secretOf(v.Message()); secret != "" {
				return secret
			}
		}
	}
	return ""
}

// hasSecret reports whether an answer can hand over a secret.
func hasSecret(d protoreflect.MessageDescriptor) bool {
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		if redacted(fd) || isRecord(fd) && hasSecret(fd.Message()) {
			return true
		}
	}
	return false
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
