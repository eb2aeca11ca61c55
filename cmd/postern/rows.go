package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// This file reads what is imported: a table, or JSON, one message for each row. What
// is wrong with a row is said of its line, and the others are read all the same. No
// complaint repeats what stands in a row: most of it is secret.

// importRow is a row of an import.
type importRow struct {
	line    int
	message protoreflect.Message
	// faults is what is wrong with it.
	faults []string
	// late says that it can only be checked when its user is there.
	late bool
}

func (r *importRow) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// maxImport is the longest file that is imported, in bytes.
const maxImport = 256 << 20

// readImport reads a file, or standard input if its name is "-".
func readImport(stdin io.Reader, name string) (string, error) {
	source := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		source = f
	}
	text, err := io.ReadAll(io.LimitReader(source, maxImport+1))
	switch {
	case err != nil:
		return "", err
	case len(text) > maxImport:
		return "", fmt.Errorf("%s is longer than %d MiB; take it in parts", name, maxImport>>20)
	}
	return strings.TrimPrefix(string(text), "\uFEFF"), nil
}

// guessFormat says how a file is written that nobody said it of.
func guessFormat(name, text, table string) string {
	text = strings.TrimSpace(text)
	first, _, _ := strings.Cut(text, "\n")
	switch extension := filepath.Ext(name); {
	case extension == ".json", extension == ".jsonl", extension == ".csv":
		return strings.TrimPrefix(strings.TrimSuffix(extension, "l"), ".")
	case strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{"):
		return "json"
	case table == "" && strings.Contains(first, "|"):
		return "pipe"
	case table == "":
		return "csv"
	}
	return table
}

// columnPaths are the fields of ImportedCredential that a column of a table fills.
var columnPaths = map[string]string{
	"secret": "secret", "token": "secret", "key": "secret", "sha256": "sha256",
	"user": "credential.principal_id", "principal": "credential.principal_id", "service": "credential.principal_id",
	"role": "credential.roles", "roles": "credential.roles", "scopes": "credential.scopes", "permissions": "credential.permissions",
	"tenant": "credential.tenant", "name": "credential.display_name", "expires": "credential.expire_time",
}

// plainColumns are those of a table that does not name them.
var plainColumns = []string{"secret", "user", "role"}

// cellMessages makes messages of the cells of a table. The first row may name the
// columns.
func cellMessages(cells []cellRow, empty protoreflect.Message) ([]importRow, error) {
	columns := plainColumns
	if len(cells) > 0 && isHeading(cells[0].cells) {
		columns = nil
		for _, name := range cells[0].cells {
			name = strings.ToLower(name)
			if columnPaths[name] == "" {
				return nil, fmt.Errorf("line %d: there is no column %q; use %s", cells[0].line, printable(name),
					strings.Join(slices.Sorted(maps.Keys(columnPaths)), ", "))
			}
			columns = append(columns, name)
		}
		cells = cells[1:]
	}
	rows := make([]importRow, len(cells))
	for i, c := range cells {
		rows[i] = importRow{line: c.line, message: empty.New()}
		rows[i].fill(c, columns)
	}
	return rows, nil
}

// isHeading reports whether a row names columns: its first cell does.
func isHeading(cells []string) bool {
	return len(cells) > 1 && columnPaths[strings.ToLower(cells[0])] != "" && columnPaths[strings.ToLower(cells[1])] != ""
}

func (r *importRow) fill(c cellRow, columns []string) {
	switch {
	case c.err != nil:
		r.fault("%v", c.err)
		return
	case len(c.cells) > len(columns) || len(c.cells) < min(2, len(columns)):
		r.fault("has %d columns; there are %d: %s", len(c.cells), len(columns), strings.Join(columns, ", "))
		return
	}
	for i, cell := range c.cells {
		if cell == "" {
			continue
		}
		holder, fd := find(r.message, columnPaths[columns[i]], true)
		texts := []string{cell}
		if fd.IsList() {
			texts = strings.FieldsFunc(cell, func(c rune) bool { return strings.ContainsRune(",; ", c) })
		}
		for _, text := range texts {
			if err := putField(holder, fd, text, time.Now(), false); err != nil {
				r.fault("%s: %v", columns[i], err)
			}
		}
	}
}

// cellRow is a row of a table.
type cellRow struct {
	line  int
	cells []string
	err   error
}

// csvRows reads comma-separated values (RFC 4180).
func csvRows(text string) (rows []cellRow) {
	r := csv.NewReader(strings.NewReader(text))
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			rows = append(rows, cellRow{line: bad.StartLine, err: bad.Err})
			continue
		}
		line, _ := r.FieldPos(0)
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cellRow{line: line, cells: cells})
	}
}

// rule is the line under the heading of a table.
var rule = regexp.MustCompile(`^[-:|+= \t]+$`)

// pipeRows reads a table as people write it: abc1234 | Alice | admin.
func pipeRows(text string) (rows []cellRow) {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || rule.MatchString(line) {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		rows = append(rows, cellRow{line: i + 1, cells: cells})
	}
	return rows
}

// jsonRows reads messages as JSON: one in each line, or an array of them.
func jsonRows(text string, empty protoreflect.Message) (rows []importRow, err error) {
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		return arrayRows(text, empty)
	}
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			rows = append(rows, jsonRow(i+1, []byte(line), empty))
		}
	}
	return rows, nil
}

func arrayRows(text string, empty protoreflect.Message) (rows []importRow, err error) {
	d := json.NewDecoder(strings.NewReader(text))
	line, seen := 1, int64(0)
	at := func() int { // counts every line once
		line, seen = line+strings.Count(text[seen:d.InputOffset()], "\n"), d.InputOffset()
		return line
	}
	_, err = d.Token() // the bracket
	for err == nil && d.More() {
		var raw json.RawMessage
		if err = d.Decode(&raw); err == nil {
			rows = append(rows, jsonRow(at()-bytes.Count(raw, []byte("\n")), raw, empty))
		}
	}
	if err == nil {
		_, err = d.Token()
	}
	if err != nil {
		return nil, fmt.Errorf("line %d: this is not JSON", at())
	}
	return rows, nil
}

// unknownField is the one complaint of protojson that is passed on: others quote.
var unknownField = regexp.MustCompile(`unknown field "([a-zA-Z0-9_]{1,40})"`)

func jsonRow(line int, raw []byte, empty protoreflect.Message) importRow {
	row := importRow{line: line, message: empty.New()}
	err := protojson.Unmarshal(raw, row.message.Interface())
	if err == nil {
		return row
	}
	if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
		row.fault("there is no field %q", m[1])
	} else {
		row.fault("this is not the JSON of %s", article(string(empty.Descriptor().Name())))
	}
	return row
}

func article(name string) string {
	if strings.HasPrefix(name, "I") {
		return "an " + name
	}
	return "a " + name
}

// htpasswdRows reads what htpasswd writes: a user and a hash in each line.
func htpasswdRows(text string, empty protoreflect.Message) (rows []importRow) {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		row := importRow{line: i + 1, message: empty.New()}
		user, hash, ok := strings.Cut(line, ":")
		switch {
		case !ok || user == "" || hash == "":
			row.fault("is not user:hash")
		case !strings.HasPrefix(hash, "$2") && !strings.HasPrefix(hash, "$argon2") && !strings.HasPrefix(hash, "$pbkdf2"):
			row.fault("the hash is none of bcrypt (htpasswd -B), argon2id and PBKDF2; others are too weak to take over")
		default:
			_ = fill(row.message, "user.id", user)
			_ = fill(row.message, "password_hash", hash)
		}
		rows = append(rows, row)
	}
	return rows
}

// defaults fills what a row does not say with what the flags do.
func defaults(row, flags protoreflect.Message) {
	for fd, v := range flags.Range {
		one := fd.ContainingOneof()
		switch {
		case one != nil && row.WhichOneof(one) != nil:
		case fd.Message() != nil && !fd.IsList() && !fd.IsMap() && row.Has(fd) && !collects(fd):
			defaults(row.Mutable(fd).Message(), v.Message())
		case !row.Has(fd):
			row.Set(fd, v)
		}
	}
}
