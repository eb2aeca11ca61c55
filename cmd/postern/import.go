package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// importing is an import of credentials or users. Whatever its size, either all of
// it is found good before anything is taken, or the bad rows are to be skipped. More
// than one part is not one change: what is found bad only then leaves the parts
// before it.
type importing struct {
	remote
	printer
	// method is the call, list the field of its request that takes the rows, record
	// the field of a row that holds what the flags say.
	method, list string
	// table is the format of files that say nothing else; "" for CSV and the like.
	table   string
	formats []string
	values  []*value

	// file is its name; empty for a single credential that flags describe.
	file, format                   string
	skipBad, dryRun, allowWildcard bool
}

// bind gives a command the flags of an import, and those of every row.
func (im *importing) bind(cmd *cobra.Command, fields []field) {
	f := cmd.Flags()
	f.StringVar(&im.format, "format", "", "how the file is written: "+strings.Join(im.formats, ", ")+" (default: as it looks)")
	completions(cmd, "format", im.formats...)
	f.BoolVar(&im.skipBad, "skip-bad", false, "take the good rows if some are bad (default: all or none)")
	f.BoolVar(&im.dryRun, "dry-run", false, "only check what would happen")
	req, res := messages(im.method)
	if fieldOf(req.ProtoReflect(), "allow_wildcard") != nil {
		f.BoolVar(&im.allowWildcard, "allow-wildcard", false, "allow * in roles, scopes and permissions")
	}
	im.values = bindFields(cmd, im.emptyRow(), fields)
	im.fields = fields
	im.printer.flags(cmd, res, false)
	im.remote.flags(cmd)
}

func (im *importing) emptyRow() protoreflect.Message {
	req, _ := messages(im.method)
	return messageOf(fieldOf(req.ProtoReflect(), im.list).Message().FullName())
}

// read reads the rows of the file, filled up with what the flags say.
func (im *importing) read(cmd *cobra.Command) ([]importRow, error) {
	text, err := readImport(cmd.InOrStdin(), im.file)
	if err != nil {
		return nil, err
	}
	format := im.format
	if format == "" {
		format = guessFormat(im.file, text, im.table)
	}
	empty := im.emptyRow()
	var rows []importRow
	switch format {
	case "json":
		rows, err = jsonRows(text, empty)
	case "csv":
		rows, err = cellMessages(csvRows(text), empty)
	case "pipe":
		rows, err = cellMessages(pipeRows(text), empty)
	case "htpasswd":
		rows = htpasswdRows(text, empty)
	}
	if !slices.Contains(im.formats, format) {
		return nil, fmt.Errorf("--format %s: use %s", printable(format), strings.Join(im.formats, ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", im.file, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s holds no rows", im.file)
	}
	return rows, im.fillUp(rows)
}

func (im *importing) fillUp(rows []importRow) error {
	flags := im.emptyRow()
	if err := applyAll(im.values, flags, time.Now()); err != nil {
		return err
	}
	for _, row := range rows {
		defaults(row.message, flags)
	}
	return nil
}

// maxPart is how long a request may be, in bytes: less than what servers read.
const maxPart = 1 << 20

// parts cuts rows into requests. Rows that are bad, or that do not fit, are left out.
func parts(rows []importRow, fits func(*importRow) bool) (all [][]*importRow) {
	var part []*importRow
	size := 0
	for i := range rows {
		if rows[i].faults != nil || !fits(&rows[i]) {
			continue
		}
		n := proto.Size(rows[i].message.Interface()) + 8
		if len(part) == maxPage || size+n > maxPart && len(part) > 0 {
			all, part, size = append(all, part), nil, 0
		}
		part, size = append(part, &rows[i]), size+n
	}
	if part != nil {
		all = append(all, part)
	}
	return all
}

// send makes the calls, or dry runs of them, for the rows that fit; notes what is
// wrong with which row; and returns the answers as one.
func (im *importing) send(cmd *cobra.Command, rows []importRow, check bool, fits func(*importRow) bool) (proto.Message, error) {
	_, whole := messages(im.method)
	progress := progress{cmd.ErrOrStderr(), map[bool]string{true: "checked", false: "sent"}[check], len(rows), 0, 0}
	for _, part := range parts(rows, fits) {
		req, res := messages(im.method)
		im.fillRequest(req.ProtoReflect(), part, check)
		if err := im.call(cmd.Context(), im.method, req, res); err != nil {
			if !check && progress.done > 0 {
				err = errors.Join(fmt.Errorf("the rows before line %d were taken, and the others were not", part[0].line), err)
			}
			return whole, err
		}
		for i, row := range part {
			row.faults = append(row.faults, faultsOf(res, i)...)
		}
		merge(whole, res)
		progress.add(len(part))
	}
	return whole, nil
}

func (im *importing) fillRequest(m protoreflect.Message, part []*importRow, check bool) {
	list := m.Mutable(fieldOf(m, im.list)).List()
	for _, row := range part {
		list.Append(protoreflect.ValueOfMessage(row.message))
	}
	set := func(name string, v bool) {
		if fd := fieldOf(m, name); fd != nil {
			m.Set(fd, protoreflect.ValueOfBool(v))
		}
	}
	set("validate_only", check)
	set("skip_bad", check || im.skipBad)
	set("allow_wildcard", im.allowWildcard)
}

// progress says how far a long import is, twenty times at most.
type progress struct {
	to          io.Writer
	what        string
	all         int
	done, shown int
}

func (p *progress) add(n int) {
	p.done += n
	if p.all > maxPage && ((p.done-p.shown)*20 >= p.all || p.done == p.all) {
		p.shown = p.done
		fmt.Fprintf(p.to, "%s %d of %d rows\n", p.what, p.done, p.all)
	}
}

// merge adds an answer to those before: rows and counts, and the last change.
func merge(whole, res proto.Message) {
	count := fieldOf(whole.ProtoReflect(), "imported")
	before := whole.ProtoReflect().Get(count).Int()
	proto.Merge(whole, res)
	whole.ProtoReflect().Set(count, protoreflect.ValueOfInt32(int32(before+res.ProtoReflect().Get(count).Int())))
}

// faultsOf is what an answer says of a row.
func faultsOf(res proto.Message, i int) (faults []string) {
	switch res := res.(type) {
	case *adminv1.ImportCredentialsResponse:
		if i < len(res.GetResults()) {
			for _, e := range res.GetResults()[i].GetErrors() {
				faults = append(faults, strings.TrimPrefix(e.GetField()+": ", ": ")+e.GetMessage())
			}
		}
	case *adminv1.ImportUsersResponse:
		if i < len(res.GetErrors()) && res.GetErrors()[i] != "" {
			faults = []string{res.GetErrors()[i]}
		}
	}
	return faults
}

// take checks all rows, and takes them if they are good or the bad ones may be
// skipped. Before anything is taken, prepare is called, if it is not nil, and then
// the rows are checked that had to wait for it.
func (im *importing) take(cmd *cobra.Command, rows []importRow, prepare func() error) error {
	early := func(r *importRow) bool { return !r.late }
	late := func(r *importRow) bool { return r.late }
	every := func(*importRow) bool { return true }
	if im.dryRun || !im.skipBad {
		res, err := im.check(cmd, rows, early)
		switch {
		case err != nil:
			return err
		case im.dryRun:
			return im.finish(cmd, rows, res)
		}
	}
	if prepare != nil {
		if err := prepare(); err != nil {
			return err
		}
		if !im.skipBad {
			if _, err := im.check(cmd, rows, late); err != nil {
				return err
			}
		}
	}
	res, err := im.send(cmd, rows, false, every)
	if err != nil {
		return err
	}
	im.report(cmd, rows)
	return im.finish(cmd, rows, res)
}

// check makes dry runs. Bad rows are an error if they may not be skipped.
func (im *importing) check(cmd *cobra.Command, rows []importRow, fits func(*importRow) bool) (proto.Message, error) {
	res, err := im.send(cmd, rows, true, fits)
	if err != nil {
		return nil, err
	}
	bad := count(rows, func(r *importRow) bool { return r.faults != nil })
	switch {
	case bad == 0 || im.skipBad:
		return res, nil
	case im.file == "":
		return nil, &refusalError{error: errors.New(strings.Join(rows[0].faults, "; "))}
	}
	im.report(cmd, rows)
	return nil, &refusalError{error: fmt.Errorf("%d of %d rows are bad, and none was taken; --skip-bad takes the others", bad, len(rows))}
}

func count(rows []importRow, fits func(*importRow) bool) (n int) {
	for i := range rows {
		if fits(&rows[i]) {
			n++
		}
	}
	return n
}

// report prints what is wrong, as compilers do.
func (im *importing) report(cmd *cobra.Command, rows []importRow) {
	for _, row := range rows {
		for _, f := range row.faults {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s:%d: %s\n", printable(im.file), row.line, printable(f))
		}
	}
}

// finish says what became of the import.
func (im *importing) finish(cmd *cobra.Command, rows []importRow, res proto.Message) error {
	stderr := cmd.ErrOrStderr()
	if weak := countLow(res); weak > 0 {
		fmt.Fprintf(stderr, "%d of the secrets are short or not random: replace them soon\n", weak)
	}
	if im.dryRun {
		im.report(cmd, rows)
		if late := count(rows, func(r *importRow) bool { return r.late }); late > 0 {
			fmt.Fprintf(stderr, "%d rows can only be checked when their users have been made\n", late)
		}
		fmt.Fprintln(stderr, "nothing was changed: this was a dry run")
	}
	return render(cmd.OutOrStdout(), im.output, res, func() (table []row) {
		m := res.ProtoReflect()
		if r, ok := res.(*adminv1.ImportCredentialsResponse); ok && len(rows) == 1 && len(r.GetResults()) == 1 {
			table = []row{{"id", r.GetResults()[0].GetId()}}
		}
		table = append(table, row{"imported", fmt.Sprintf("%d of %d", m.Get(fieldOf(m, "imported")).Int(), len(rows))})
		return append(table, rowsOf(m.Get(fieldOf(m, "change")).Message())...)
	})
}

func countLow(res proto.Message) (n int) {
	if r, ok := res.(*adminv1.ImportCredentialsResponse); ok {
		for _, result := range r.GetResults() {
			if result.GetLowEntropy() {
				n++
			}
		}
	}
	return n
}
