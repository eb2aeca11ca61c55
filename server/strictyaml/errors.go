package strictyaml

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxErrors bounds what one run reports.
const maxErrors = 100

// Error is one thing that is wrong in a file.
type Error struct {
	// File is the name given to Decode; Line and Column count from 1, columns in
	// characters.
	File         string
	Line, Column int
	// Path is the field's place in the document, for example
	// "issuers[0].keys.refresh"; empty for the document itself.
	Path string
	// Source is the line as it stands in the file, with secrets masked; of a long
	// one the part around the column.
	Source string
	// Message says what is wrong, with the value where it is not a secret, and
	// what is allowed. Suggestion says what to write instead; it may be empty.
	Message, Suggestion string

	// caret is the column in Source; 0 means Column.
	caret int
}

// Error prints the error as compilers do: position, message and suggestion, the
// line, and a caret under the column.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
	if e.Suggestion != "" {
		b.WriteString("; " + e.Suggestion)
	}
	if strings.TrimSpace(e.Source) == "" {
		return b.String()
	}
	caret := e.caret
	if caret == 0 {
		caret = max(1, e.Column)
	}
	gutter := fmt.Sprintf("%5d", e.Line)
	fmt.Fprintf(&b, "\n%s | %s\n%s | %s^", gutter, e.Source, strings.Repeat(" ", len(gutter)), strings.Repeat(" ", caret-1))
	return b.String()
}

// Errors is everything that is wrong in a file, in the order of its lines.
type Errors []*Error

// Error prints every error, separated by line ends.
func (e Errors) Error() string {
	all := make([]string, len(e))
	for i := range e {
		all[i] = e[i].Error()
	}
	return strings.Join(all, "\n")
}

// Unwrap returns the single errors, for errors.As.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i := range e {
		all[i] = e[i]
	}
	return all
}

// Check returns all that a check reports as one error, one line each, or nil: for
// values that no file was decoded into, so that there are no lines to name. Prefix
// is put before every path.
func Check(prefix string, check func(report func(path, message, suggestion string))) error {
	var all []error
	check(func(path, message, suggestion string) {
		if suggestion != "" {
			message += "; " + suggestion
		}
		all = append(all, fmt.Errorf("%s%s: %s", prefix, path, message))
	})
	return errors.Join(all...)
}

// clip shortens what a message repeats of the file.
func clip(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

// A mask covers a part of the source that must not be printed, from one position
// up to another. Positions count from 1; columns are in characters.
type mask struct {
	line, column       int
	endLine, endColumn int
	// text is shown instead; behind are characters that stay at the end, because
	// they belong to what is around the value.
	text, behind string
}

// shownLine is a line with every mask laid over it.
type shownLine struct {
	number       int
	source, text []rune
	// at maps the source's columns, from 0, to places in text.
	at []int
}

func (d *decoder) showLine(number int) *shownLine {
	l := &shownLine{number: number}
	if number < 1 || number > len(d.lines) {
		return l
	}
	l.source = []rune(d.lines[number-1])
	covers := d.covers(number, l.source)
	l.at = make([]int, len(l.source))
	for i, r := range l.source {
		l.at[i] = len(l.text)
		switch {
		case covers[i] == nil:
			l.text = append(l.text, r)
		case i == 0 || covers[i-1] == nil:
			l.text = append(l.text, []rune(covers[i].text)...)
		}
	}
	return l
}

// covers returns for each character of the line the mask that hides it.
func (d *decoder) covers(number int, line []rune) []*mask {
	covers := make([]*mask, len(line))
	for i := range d.masks {
		m := &d.masks[i]
		if number < m.line || number > m.endLine {
			continue
		}
		from, to := 0, len(line)
		if number == m.line {
			from = min(m.column-1, len(line))
		}
		if number == m.endLine {
			to = min(m.endColumn-1, len(line))
			if from == 0 && strings.Trim(string(line[:to]), " -") == "" {
				continue // the indentation of what comes next
			}
		}
		for to > from && strings.ContainsRune(m.behind, line[to-1]) {
			to--
		}
		for j := from; j < to; j++ {
			if covers[j] == nil {
				covers[j] = m
			}
		}
	}
	return covers
}

// comment returns the place in text from which on there is only a comment, which
// is not shown: people note former values there. Columns before the given one
// are not in a comment.
func (l *shownLine) comment(column int) int {
	for i := max(0, column-1); i < len(l.source); i++ {
		if l.source[i] == '#' && (i == 0 || l.source[i-1] == ' ' || l.source[i-1] == '\t') {
			return l.at[i]
		}
	}
	return len(l.text)
}

// windowWidth is how much of a long line is shown.
const windowWidth = 120

// window returns the part of the line around the source's column, printable, and
// the column within it.
func (l *shownLine) window(column int) (text string, caret int) {
	place := len(l.text)
	if column-1 < len(l.at) {
		place = l.at[column-1]
	}
	start := 0
	if place > windowWidth*3/4 {
		start = place - windowWidth/2
	}
	long := l.text[:l.comment(column)]
	end := min(len(long), start+windowWidth)
	shown := slices.Clone(long[start:end])
	for i, r := range shown {
		if !unicode.IsPrint(r) {
			shown[i] = ' '
		}
	}
	text, caret = strings.TrimRight(string(shown), " "), place-start+1
	if end < len(long) {
		text += "…"
	}
	if start > 0 {
		return "…" + text, caret + 1
	}
	return text, caret
}
