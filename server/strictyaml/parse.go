package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const defaultMaxSize = 1 << 20

// parse is steps 1 and 2: it returns the root node of the one document.
func (d *decoder) parse() (*yaml.Node, bool) {
	if len(d.src) > d.maxSize {
		d.syntax(1, 1, fmt.Sprintf("the file is larger than %d bytes", d.maxSize), "")
		return nil, false
	}
	d.src = bytes.TrimPrefix(d.src, []byte("\ufeff"))
	if !d.checkBytes() {
		return nil, false
	}
	d.lines = strings.Split(strings.ReplaceAll(string(d.src), "\r\n", "\n"), "\n")
	if !d.checkIndentation() {
		return nil, false
	}
	documents, err := readDocuments(d.src)
	if err != nil {
		d.syntaxError(err)
		return nil, false
	}
	if len(documents) > 1 {
		second := documents[1]
		d.syntax(max(1, second.Line), max(1, second.Column), "the file holds more than one document", `remove the line "---"`)
		return nil, false
	}
	if len(documents) == 0 || len(documents[0].Content) == 0 || isEmpty(documents[0].Content[0]) {
		d.syntax(1, 1, "the file is empty", "")
		return nil, false
	}
	return documents[0].Content[0], true
}

func isEmpty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// readDocuments parses at most two documents: one is wanted, and two are an
// error. A panic of the parser is an error like any other.
func readDocuments(src []byte) (all []*yaml.Node, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("yaml: the file cannot be read as YAML")
		}
	}()
	for y := yaml.NewDecoder(bytes.NewReader(src)); len(all) < 2; {
		var n yaml.Node
		switch err := y.Decode(&n); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return all, err
		}
		all = append(all, &n)
	}
	return all, nil
}

// checkBytes refuses text that is not UTF-8, and characters that make a file
// look different from what it says: control characters, line separators that
// only YAML 1.1 knows, and marks that change the direction of writing.
func (d *decoder) checkBytes() bool {
	line, column := 1, 1
	for i := 0; i < len(d.src); column++ {
		r, size := utf8.DecodeRune(d.src[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			d.syntax(line, column, fmt.Sprintf("byte 0x%02x is not UTF-8", d.src[i]), "save the file as UTF-8")
			return false
		case r == '\r' && (i+1 == len(d.src) || d.src[i+1] != '\n'), isInvisible(r):
			d.syntax(line, column, fmt.Sprintf("character U+%04X is not allowed", r), "remove it, or write it as an escape in double quotes")
			return false
		case r == '\n':
			line, column = line+1, 0
		}
		i += size
	}
	return true
}

func isInvisible(r rune) bool {
	switch {
	case r == '\n', r == '\r', r == '\t':
		return false
	case r < 0x20, r >= 0x7f && r < 0xa0:
		return true
	case r == 0x200e, r == 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfeff:
		return true
	}
	return false
}

// checkIndentation refuses tabs before the first character of a line. YAML
// forbids them in most places and then complains about something else.
func (d *decoder) checkIndentation() bool {
	ok := true
	for i, line := range d.lines {
		if d.enough() {
			break
		}
		text := strings.TrimLeft(line, " \t")
		if tab := strings.IndexByte(line[:len(line)-len(text)], '\t'); tab >= 0 && text != "" {
			d.syntax(i+1, tab+1, "a tab cannot be used for indentation", "use spaces")
			ok = false
		}
	}
	return ok
}

var yamlError = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// syntaxHints says what usually causes an error of the parser. Its own messages
// are shown only if they are listed, because others may repeat the file.
var syntaxHints = []struct{ message, shown, suggestion string }{
	{"mapping values are not allowed", "a mapping cannot start here", `check the indentation, and quote values that hold ": "`},
	{"could not find expected ':'", `":" is missing after a field's name`, ""},
	{"did not find expected key", "a field's name was expected here", "check the indentation and the quotes"},
	{"did not find expected '-' indicator", "a list item was expected here", "check the indentation"},
	{"did not find expected <document start>", "the line does not belong to what stands before it", "check the indentation"},
	{"did not find expected ',' or ']'", `a list in brackets lacks "," or "]"`, ""},
	{"did not find expected ',' or '}'", `a mapping in braces lacks "," or "}"`, ""},
	{"did not find expected node content", "a value was expected here", "check the brackets, braces and commas before it"},
	{"mapping keys are not allowed", `"? " cannot stand here`, "put the text in quotes"},
	{"found character that cannot start any token", "a value cannot start with this character", "put the value in quotes"},
	{"found unexpected end of stream", "the file ends inside a quoted text", "close the quotes"},
	{"found unexpected document indicator", `"---" or "..." stands inside a quoted text`, "close the quotes"},
	{"hexdecimal number", "an escape in double quotes is not complete", `write \\ for a backslash, or use single quotes`},
	{"invalid Unicode character escape", "an escape in double quotes is no character", `write \\ for a backslash, or use single quotes`},
	{"directive", "a line cannot start with %", "remove it, or put the text in quotes"},
	{"alphabetic or numeric character", "a name is missing after * or &", "put the text in quotes"},
	{"indentation indicator", "a text of several lines starts with | or > and nothing else", ""},
	{"comment or line break", "a text of several lines starts with | or > and nothing else", ""},
	{"found unknown escape character", "unknown escape in a text in double quotes", `write \\ for a backslash, or use single quotes`},
	{"unknown anchor", "aliases are not allowed", "write the value out, and quote texts that start with *"},
	{"anchor", "anchors and aliases are not allowed", "write the value out"},
	{"exceeded max depth", "the document is nested too deeply", ""},
	{"block sequence entries are not allowed", "a list cannot start here", "put it on a line of its own"},
	{"tag", "tags are not allowed", "quote texts that start with !"},
}

func (d *decoder) syntaxError(err error) {
	m := yamlError.FindStringSubmatch(err.Error())
	if m == nil {
		m = []string{"", "", ""}
	}
	message, suggestion := "the file cannot be read as YAML", ""
	for _, h := range syntaxHints {
		if strings.Contains(m[2], h.message) {
			message, suggestion = h.shown, h.suggestion
			break
		}
	}
	line := d.syntaxLine(m[1], m[2])
	text := d.lines[line-1]
	d.syntax(line, utf8.RuneCountInString(text)-utf8.RuneCountInString(strings.TrimLeft(text, " "))+1, message, suggestion)
}

// syntaxLine returns the line of an error from what the parser says. Errors of
// its grammar, as opposed to those of its scanner, count lines from 0; and if
// they are about a block, they name the line where the block starts. That may be
// far away, so the line at fault is searched for: it is the last one of the
// shortest beginning of the file that fails in the same way.
func (d *decoder) syntaxLine(number, message string) int {
	line, _ := strconv.Atoi(number)
	if strings.HasPrefix(message, "did not find expected") {
		line++
	}
	if strings.Contains(message, "expected key") || strings.Contains(message, "expected '-'") {
		line = 1 + sort.Search(len(d.lines)-1, func(i int) bool {
			_, err := readDocuments([]byte(strings.Join(d.lines[:i+1], "\n")))
			return err != nil && strings.HasSuffix(err.Error(), message)
		})
	}
	line = max(1, min(line, len(d.lines)))
	for line > 1 && strings.TrimSpace(d.lines[line-1]) == "" {
		line-- // what is missing at the end is missing behind the last text
	}
	return line
}

// syntax adds an error about text that could not be parsed. What stands behind
// the first field's name of the line may be a secret, and is not shown.
func (d *decoder) syntax(line, column int, message, suggestion string) {
	e := &Error{File: d.name, Line: line, Column: column, Message: message, Suggestion: suggestion}
	if line <= len(d.lines) {
		start := strings.ReplaceAll(fieldStart.FindString(d.lines[line-1]), "\t", " ")
		if strings.TrimSpace(start) != "" {
			e.Source = strings.TrimRight(start, " ") + " …"
		}
	}
	d.errs = append(d.errs, e)
}

// fieldStart matches the indentation, list dashes and the field's name that
// start a line.
var fieldStart = regexp.MustCompile(`^[ \t]{0,80}(?:- +){0,8}(?:[a-z][a-z0-9_]{0,63}:)?`)

// mask hides the node and all below it from printed lines.
func (d *decoder) mask(n *yaml.Node, text string) { d.maskRange(n, n, text) }

// maskPair hides a field whose name cannot be trusted to be one.
func (d *decoder) maskPair(key, val *yaml.Node) { d.maskRange(key, val, "…") }

// maskAll hides all values, for documents that were not understood.
func (d *decoder) maskAll() {
	for _, n := range d.order {
		for i, c := range n.Content {
			isValue := n.Kind == yaml.SequenceNode || i%2 == 1
			if isValue && (c.Kind == yaml.ScalarNode || c.Kind == yaml.AliasNode) {
				d.mask(c, "…")
			}
		}
	}
}

// maskRange hides from the start of one node to the start of whatever follows
// the other: the parser does not say where a node ends.
func (d *decoder) maskRange(first, last *yaml.Node, text string) {
	if d.quick {
		return
	}
	m := mask{line: first.Line, column: first.Column, endLine: len(d.lines) + 1, endColumn: 1, text: text, behind: " ,"}
	if last.Kind == yaml.ScalarNode && !strings.HasSuffix(last.Value, "}") {
		m.behind = " ,]}"
	}
	if behind := d.span[last][1]; behind < len(d.order) {
		m.endLine, m.endColumn = d.order[behind].Line, d.order[behind].Column
	}
	at := sort.Search(len(d.masks), func(i int) bool {
		o := d.masks[i]
		return o.line > m.line || o.line == m.line && o.column > m.column
	})
	d.masks = append(d.masks, mask{})
	copy(d.masks[at+1:], d.masks[at:])
	d.masks[at] = m
}
