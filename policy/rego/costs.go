package rego

import (
	"net/netip"
	"regexp/syntax"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
)

// cost says how much work a call will be: about the bytes that the function reads
// and makes, where a byte stands for one to two nanoseconds. It is an upper bound
// that is cheap to find, and it stops looking beyond most. Operands of a type that
// the function does not take cost nothing: it refuses them.
type cost func(operands []*ast.Term, most int) int

// costs holds every built-in function of OPA. Nil is for those whose work does not
// grow, or no faster than what they are given was to make: those that only look at
// the type, the first level or the bytes of a text. Figures are measured, on the
// processors that also measured docs/performance.md.
var costs = map[string]cost{
	// Comparison, arithmetic, aggregates.
	"eq": nil, "assign": nil, "equal": nil, "neq": nil, "gt": nil, "gte": nil, "lt": nil, "lte": nil,
	"internal.member_2": nil, "internal.member_3": nil,
	"plus": digits, "minus": digits, "mul": digits, "div": digits, "rem": digits,
	"ceil": digits, "floor": digits, "round": digits, "abs": digits, "format_int": digits,
	"bits.or": digits, "bits.and": digits, "bits.negate": digits, "bits.xor": digits, "bits.lsh": shift, "bits.rsh": shift,
	"count": nil, "sum": numbers, "product": product, "max": deeply(4), "min": deeply(4), "any": broadly(16), "all": broadly(16), "sort": deeply(8),
	"numbers.range": numberRange, "numbers.range_step": numberRange,

	// Arrays, sets, objects, graphs.
	"array.concat": broadly(32), "array.flatten": deeply(2), "array.slice": broadly(16), "array.reverse": broadly(16),
	"and": broadly(128), "or": broadly(128), "set_diff": broadly(128), "intersection": deeply(2), "union": deeply(2),
	"object.union": merged, "object.union_n": deeply(1), "object.remove": broadly(128), "object.filter": broadly(128),
	"object.get": nil, "object.keys": broadly(64), "object.subset": subset,
	"json.filter": deeply(4), "json.remove": deeply(4), "json.patch": patch,
	"walk": deeply(2), "graph.reachable_paths": paths,
	"graph.reachable": nil, // replaced by reachable, which counts as it goes

	// Types.
	"to_number": deeply(8), "cast_object": nil, "cast_null": nil, "cast_boolean": nil, "cast_string": nil,
	"cast_set": broadly(128), "cast_array": broadly(32),
	"is_number": nil, "is_string": nil, "is_boolean": nil, "is_array": nil, "is_set": nil, "is_object": nil, "is_null": nil,
	"type_name": nil,

	// Text.
	"concat": joined, "contains": nil, "startswith": nil, "endswith": nil, "indexof": deeply(16), "indexof_n": deeply(64),
	"lower": deeply(perText), "upper": deeply(perText), "replace": replaced, "split": pieces, "substring": deeply(4), "sprintf": formatted,
	"trim": trimmed, "trim_left": trimmed, "trim_prefix": nil, "trim_right": trimmed, "trim_suffix": nil, "trim_space": nil,
	"strings.any_prefix_match": deeply(4), "strings.any_suffix_match": deeply(4), "strings.count": deeply(2),
	"strings.render_template": deeply(64), "strings.replace_n": replacedAll, "strings.reverse": deeply(4),
	"strings.split_n": pieces, "internal.template_string": deeply(perText),
	"regex.is_valid": matched(0), "regex.match": matched(0), "re_match": matched(0), "regex.split": matched(32),
	"regex.globs_match": squared, "regex.template_match": templateMatched, "regex.find_n": matched(64),
	"regex.find_all_string_submatch_n": matched(64), "regex.replace": rewritten,
	"glob.match": globbed, "glob.quote_meta": deeply(4),
	"units.parse": deeply(16), "units.parse_bytes": deeply(16), "uuid.parse": nil, "semver.is_valid": deeply(16), "semver.compare": deeply(16),
	"print": nil, "internal.print": nil,

	// Encodings.
	"json.marshal": deeply(perText), "json.marshal_with_options": indented, "json.unmarshal": deeply(16), "json.is_valid": deeply(8),
	"yaml.marshal": deeply(64), "yaml.unmarshal": deeply(64), "yaml.is_valid": deeply(64),
	"base64.encode": deeply(2), "base64.decode": deeply(2), "base64.is_valid": deeply(2),
	"base64url.encode": deeply(2), "base64url.encode_no_pad": deeply(2), "base64url.decode": deeply(2),
	"hex.encode": deeply(4), "hex.decode": deeply(4),
	"urlquery.decode": deeply(4), "urlquery.encode": deeply(4), "urlquery.encode_object": deeply(16), "urlquery.decode_object": deeply(32),
	"uri.parse": deeply(16), "uri.is_valid": deeply(16),
	"graphql.parse": validated, "graphql.parse_and_verify": validated, "graphql.is_valid": validated,
	"graphql.parse_query": deeply(64), "graphql.parse_schema": deeply(64), "graphql.schema_is_valid": deeply(64),
	"json.match_schema": schema, "json.verify_schema": schema,

	// Networks, time, cryptography.
	"net.cidr_overlap": nil, "net.cidr_intersects": nil, "net.cidr_contains": nil, "net.cidr_is_valid": nil,
	"net.cidr_contains_matches": crossed(256), "net.cidr_expand": expanded, "net.cidr_merge": broadly(1024),
	"time.now_ns": nil, "time.parse_ns": deeply(16), "time.parse_rfc3339_ns": nil, "time.parse_duration_ns": deeply(16),
	"time.format": deeply(32), "time.date": nil, "time.clock": nil, "time.weekday": nil, "time.add_date": nil, "time.diff": nil,
	"crypto.md5": deeply(4), "crypto.sha1": deeply(4), "crypto.sha256": deeply(4),
	"crypto.hmac.md5": deeply(4), "crypto.hmac.sha1": deeply(4), "crypto.hmac.sha256": deeply(4), "crypto.hmac.sha512": deeply(4),
	"crypto.hmac.equal":              nil,
	"crypto.x509.parse_certificates": deeply(64), "crypto.x509.parse_certificate_request": deeply(64),
	"crypto.x509.parse_and_verify_certificates":              deeply(128),
	"crypto.x509.parse_and_verify_certificates_with_options": deeply(128),
	"crypto.x509.parse_rsa_private_key":                      deeply(128), "crypto.x509.parse_keypair": deeply(128), "crypto.parse_private_keys": deeply(128),
	"io.jwt.decode": deeply(16), "io.jwt.decode_verify": deeply(64),
	"io.jwt.verify_rs256": deeply(64), "io.jwt.verify_rs384": deeply(64), "io.jwt.verify_rs512": deeply(64),
	"io.jwt.verify_ps256": deeply(64), "io.jwt.verify_ps384": deeply(64), "io.jwt.verify_ps512": deeply(64),
	"io.jwt.verify_es256": deeply(64), "io.jwt.verify_es384": deeply(64), "io.jwt.verify_es512": deeply(64), "io.jwt.verify_eddsa": deeply(64),
	"io.jwt.verify_hs256": deeply(16), "io.jwt.verify_hs384": deeply(16), "io.jwt.verify_hs512": deeply(16),
	"io.jwt.encode_sign": deeply(256), "io.jwt.encode_sign_raw": deeply(256), "providers.aws.sign_req": deeply(64),

	// What reaches out of the decision waits for others and not for itself.
	"http.send": nil, "net.lookup_ip_addr": nil, "opa.runtime": nil, "rand.intn": nil, "uuid.rfc4122": nil,
	"rego.parse_module": deeply(256), "trace": nil, "rego.metadata.chain": nil, "rego.metadata.rule": nil, "internal.test_case": nil,
}

// size is about the bytes of a value and of all below it, or more than most.
func size(v ast.Value, most int) int {
	const perValue = 16
	n := perValue
	each := func(t *ast.Term) bool {
		n += size(t.Value, most-n)
		return n > most
	}
	switch v := v.(type) {
	case ast.String:
		n += len(v)
	case ast.Number:
		n += len(v)
	case *ast.Array:
		v.Until(each)
	case ast.Set:
		v.Until(each)
	case ast.Object:
		v.Until(func(key, value *ast.Term) bool { return each(key) || each(value) })
	}
	return n
}

func sizes(operands []*ast.Term, most int) (n int) {
	for _, t := range operands {
		if n += size(t.Value, most-n); n > most {
			break
		}
	}
	return n
}

// deeply costs so much for each byte of the operands.
func deeply(each int) cost {
	return func(operands []*ast.Term, most int) int { return each * sizes(operands, most/each) }
}

// broadly costs so much for each element of the first level.
func broadly(each int) cost {
	return func(operands []*ast.Term, _ int) (n int) {
		for _, t := range operands {
			n += each * breadth(t.Value)
		}
		return n
	}
}

// crossed costs so much for each pair of elements of the first two operands.
func crossed(each int) cost {
	return func(operands []*ast.Term, most int) int {
		return times(each, times(max(1, breadth(operands[0].Value)), max(1, breadth(operands[1].Value)), most), most)
	}
}

func breadth(v ast.Value) int {
	switch v := v.(type) {
	case *ast.Array:
		return v.Len()
	case ast.Set:
		return v.Len()
	case ast.Object:
		return v.Len()
	}
	return 0
}

// times multiplies, up to something more than most.
func times(a, b, most int) int {
	if a != 0 && b > most/a {
		return most + 1
	}
	return a * b
}

// squared is for what may compare everything with everything.
func squared(operands []*ast.Term, most int) int {
	n := sizes(operands, most)
	return times(n, n, most)
}

// validated is for GraphQL: each field of a query is compared with each other one of
// its name.
func validated(operands []*ast.Term, most int) int {
	n := deeply(64)(operands, most)
	for _, t := range operands {
		words := map[string]int{}
		for word := range strings.FieldsFuncSeq(textOf(t), func(r rune) bool {
			return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_')
		}) {
			if words[word]++; n > most {
				return n
			}
			n += 1024 * words[word]
		}
	}
	return n
}

// maxDigits is the longest number that is computed with.
const maxDigits = 4096

// digitsOf is the length of a number or of the text of one; very long if its
// exponent is large.
func digitsOf(v ast.Value) int {
	var text string
	switch v := v.(type) {
	case ast.Number:
		text = string(v)
	case ast.String:
		text = string(v)
	default:
		return 0
	}
	if i := strings.IndexAny(text, "eE"); i >= 0 && len(text)-i > len("e-9999") {
		return 1 << 40
	}
	return len(text)
}

func digits(operands []*ast.Term, most int) (n int) {
	for _, t := range operands {
		d := digitsOf(t.Value)
		if d > maxDigits {
			return most + 1
		}
		n += d
	}
	if n < 64 {
		return n
	}
	return n * n / 16
}

// shift: the second operand is how many bits longer the first gets.
func shift(operands []*ast.Term, most int) int {
	bits, ok := integer(operands[1].Value)
	if ok && bits > 4*maxDigits || !ok && digitsOf(operands[1].Value) > 9 {
		return most + 1
	}
	return digits(operands[:1], most) + bits
}

func integer(v ast.Value) (int, bool) {
	n, ok := v.(ast.Number)
	if !ok {
		return 0, false
	}
	return n.Int()
}

func numbers(operands []*ast.Term, most int) int {
	n := 0
	eachOf(operands[0].Value, func(v ast.Value) bool {
		n += digits([]*ast.Term{{Value: v}}, most) + 64
		return n > most
	})
	return n
}

// product: the factors' digits add up.
func product(operands []*ast.Term, most int) int {
	total, n := 0, 0
	eachOf(operands[0].Value, func(v ast.Value) bool {
		d := digitsOf(v)
		if total += d; total > maxDigits {
			n = most + 1
		}
		n += total*d/16 + 64
		return n > most
	})
	return n
}

func eachOf(v ast.Value, visit func(ast.Value) (stop bool)) {
	until := func(t *ast.Term) bool { return visit(t.Value) }
	switch v := v.(type) {
	case *ast.Array:
		v.Until(until)
	case ast.Set:
		v.Until(until)
	}
}

func numberRange(operands []*ast.Term, most int) int {
	from, ok := integer(operands[0].Value)
	to, ok2 := integer(operands[1].Value)
	if !ok || !ok2 {
		if digitsOf(operands[0].Value) > 15 || digitsOf(operands[1].Value) > 15 {
			return most + 1
		}
		return 0
	}
	n := max(from, to) - min(from, to)
	if len(operands) > 2 {
		if step, ok := integer(operands[2].Value); ok && step > 0 {
			n /= step
		}
	}
	if n < 0 { // they are further apart than an int can say
		return most + 1
	}
	return times(n, 64, most)
}

// merged is object.union: of what is below the first level only what both have is
// merged.
func merged(operands []*ast.Term, most int) int {
	return broadly(128)(operands, most) + 8*min(size(operands[0].Value, most/8), size(operands[1].Value, most/8))
}

// subset is object.subset(super, sub), which looks for what sub has.
func subset(operands []*ast.Term, most int) int {
	n := deeply(8)(operands[1:], most)
	if _, ok := operands[0].Value.(*ast.Array); ok {
		n += crossed(8)(operands, most)
	}
	return n
}

// patch: each step may copy the whole first level.
func patch(operands []*ast.Term, most int) int {
	return deeply(4)(operands, most) + crossed(1)(operands, most)
}

// textOf is an operand that is a string, else nothing.
func textOf(t *ast.Term) string {
	s, _ := t.Value.(ast.String)
	return string(s)
}

// perText is what a byte of a new text costs. It is more than making it takes,
// because each list and each set that a text is put into reads it again, and nothing
// bounds how many these are: no text that a policy makes is over 256 KiB.
const perText = 16

// joined is concat(delimiter, texts).
func joined(operands []*ast.Term, most int) int {
	delimiter, n := len(textOf(operands[0])), 0
	eachOf(operands[1].Value, func(v ast.Value) bool {
		s, _ := v.(ast.String)
		n += perText * (len(s) + delimiter)
		return n > most
	})
	return n
}

// pieces is split(text, delimiter).
func pieces(operands []*ast.Term, _ int) int {
	return 64*strings.Count(textOf(operands[0]), textOf(operands[1])) + len(textOf(operands[0]))
}

func replaced(operands []*ast.Term, most int) int {
	text, old, fresh := textOf(operands[0]), textOf(operands[1]), textOf(operands[2])
	return perText*len(text) + times(strings.Count(text, old), perText*len(fresh), most)
}

func replacedAll(operands []*ast.Term, most int) int {
	pairs, ok := operands[0].Value.(ast.Object)
	if !ok {
		return 0
	}
	text := textOf(operands[1])
	n := perText*len(text) + 64*pairs.Len()
	pairs.Until(func(old, fresh *ast.Term) bool {
		n += len(text) + times(strings.Count(text, textOf(old)), perText*len(textOf(fresh)), most)
		return n > most
	})
	return n
}

// trimmed: each character of the text is looked up in the cutset.
func trimmed(operands []*ast.Term, most int) int {
	return times(len(textOf(operands[0])), 1+len(textOf(operands[1]))/8, most)
}

// formatted is sprintf(format, values): widths and precisions are as many characters, and each verb may print
// any of the values.
func formatted(operands []*ast.Term, most int) int {
	format := textOf(operands[0])
	verbs := strings.Count(format, "%")
	n := perText * (len(format) + widths(format))
	if n > most {
		return n
	}
	values, ok := operands[1].Value.(*ast.Array)
	if !ok {
		return n
	}
	if !strings.Contains(format, "[") { // each verb prints the next value, once
		return n + perText*size(values, most)
	}
	longest := 0
	values.Until(func(t *ast.Term) bool {
		longest = max(longest, perText*size(t.Value, most))
		return longest > most
	})
	return n + times(verbs, longest, most)
}

// widths adds up the numbers in a format; a width that is an argument may be as much
// as package fmt allows.
func widths(format string) (n int) {
	const most = 1_000_000
	number := 0
	for i := range len(format) {
		switch c := format[i]; {
		case c == '*':
			n += most
		case '0' <= c && c <= '9':
			number = min(10*number+int(c-'0'), most)
			continue
		}
		n, number = n+number, 0
	}
	return n
}

// matched: a text is matched by a program that was compiled from the pattern, at
// worst all of the program at each character. Finding adds what it finds.
func matched(find int) cost {
	return func(operands []*ast.Term, most int) int {
		program := programSize(textOf(operands[0]), most)
		text := 0
		if len(operands) > 1 {
			text = len(textOf(operands[1]))
		}
		return 16*program + times(text, program/2+1, most) + times(text, find, most)
	}
}

// rewritten is regex.replace(text, pattern, value): the value stands for each match,
// and each $ in it for all of that match.
func rewritten(operands []*ast.Term, most int) int {
	text, value := textOf(operands[0]), textOf(operands[2])
	return matched(16)([]*ast.Term{operands[1], operands[0]}, most) +
		times(len(text)+1, perText*(len(value)+1), most) + times(len(text), perText*strings.Count(value, "$"), most)
}

// templateMatched is regex.template_match(template, text, start, end).
func templateMatched(operands []*ast.Term, most int) int {
	return matched(0)(operands[:2], most)
}

// programSize is about how many instructions a pattern becomes. Only repetitions
// such as {1,500} make more of them than there are characters.
func programSize(pattern string, most int) int {
	if len(pattern) > most {
		return most + 1
	}
	if !strings.Contains(pattern, "{") {
		return 2*len(pattern) + 8
	}
	return programs.of(pattern, most)
}

// programs remembers the sizes of some patterns.
var programs = sizesOfPatterns{known: map[string]int{}}

type sizesOfPatterns struct {
	mu    sync.RWMutex
	known map[string]int
}

const (
	maxKnownPatterns = 1024
	maxKnownPattern  = 1024
)

func (p *sizesOfPatterns) of(pattern string, most int) int {
	p.mu.RLock()
	n, ok := p.known[pattern]
	p.mu.RUnlock()
	if ok {
		return n
	}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return len(pattern) // refused by whoever compiles it
	}
	if n = instructions(re, most); len(pattern) <= maxKnownPattern {
		p.mu.Lock()
		if len(p.known) >= maxKnownPatterns {
			clear(p.known)
		}
		p.known[strings.Clone(pattern)] = n
		p.mu.Unlock()
	}
	return n
}

func instructions(re *syntax.Regexp, most int) int {
	n := 2 + len(re.Rune)
	for _, sub := range re.Sub {
		if n += instructions(sub, most); n > most {
			return n
		}
	}
	if re.Op == syntax.OpRepeat {
		n = times(n, max(1, re.Min, re.Max), most)
	}
	return n
}

// globbed is glob.match(pattern, delimiters, text).
func globbed(operands []*ast.Term, most int) int {
	pattern, text := textOf(operands[0]), textOf(operands[2])
	return 64*len(pattern) + times(len(text)+1, 2*(strings.Count(pattern, "*")+strings.Count(pattern, "{"))+4, most)
}

// indented: the indent stands before every value, as often as it is nested.
func indented(operands []*ast.Term, most int) int {
	indent := 1
	if options, ok := operands[1].Value.(ast.Object); ok {
		for _, name := range []string{"indent", "prefix"} {
			if t := options.Get(ast.InternedTerm(name)); t != nil {
				indent += len(textOf(t))
			}
		}
	}
	// A value in n brackets takes 16 n bytes by size's count.
	n := size(operands[0].Value, most)
	if n > most {
		return n // also if it is many by standing in many places, which nesting would visit
	}
	return 8*n + times(n/16, times(indent, nesting(operands[0].Value, 0), most), most)
}

func nesting(v ast.Value, depth int) int {
	deepest := depth
	if depth > 10_000 {
		return depth
	}
	visit := func(v ast.Value) bool { deepest = max(deepest, nesting(v, depth+1)); return false }
	if o, ok := v.(ast.Object); ok {
		o.Foreach(func(_, value *ast.Term) { visit(value.Value) })
		return deepest
	}
	eachOf(v, visit)
	return deepest
}

// schema refuses schemas that refer to others, or to themselves: following such a
// reference in a circle ends the process.
func schema(operands []*ast.Term, most int) int {
	for _, t := range operands {
		v := t.Value
		if text, ok := v.(ast.String); ok {
			parsed, err := ast.ValueFromReader(strings.NewReader(string(text)))
			if err != nil {
				continue
			}
			v = parsed
		}
		if size(v, most/64) > most/64 || refers(v) {
			return most + 1
		}
	}
	return deeply(64)(operands, most)
}

// refers reports whether a member "$ref" or the like is anywhere in the value.
func refers(v ast.Value) bool {
	found := false
	if o, ok := v.(ast.Object); ok {
		o.Until(func(key, value *ast.Term) bool {
			name := textOf(key)
			found = strings.HasPrefix(name, "$") && strings.HasSuffix(strings.ToLower(name), "ref") || refers(value.Value)
			return found
		})
		return found
	}
	eachOf(v, func(v ast.Value) bool { found = refers(v); return found })
	return found
}

// expanded: a network has as many addresses.
func expanded(operands []*ast.Term, most int) int {
	network, err := netip.ParsePrefix(textOf(operands[0]))
	if err != nil {
		return 0
	}
	host := network.Addr().BitLen() - network.Bits()
	if host > 30 {
		return most + 1
	}
	return times(1<<host, 64, most)
}

// paths counts the steps of graph.reachable_paths, of which there may be as many as
// there are paths: exponentially many.
func paths(operands []*ast.Term, most int) int {
	graph, ok := operands[0].Value.(ast.Object)
	if !ok {
		return 0
	}
	w := pathWalk{graph: graph, on: ast.NewSet(), most: most}
	eachOf(operands[1].Value, func(v ast.Value) bool {
		w.from(ast.NewTerm(v), 1)
		return w.work > most
	})
	return w.work
}

// pathWalk goes along all paths that do not cross themselves.
type pathWalk struct {
	graph      ast.Object
	on         ast.Set
	work, most int
}

// workPerStep is what one step costs for each node of the path so far: the path and
// the set of its nodes are copied.
const workPerStep = 64

func (w *pathWalk) from(node *ast.Term, length int) {
	edges := w.graph.Get(node)
	if w.work += workPerStep * length; edges == nil || w.work > w.most {
		return
	}
	on := w.on
	w.on = on.Copy()
	w.on.Add(node)
	eachOf(edges.Value, func(next ast.Value) bool {
		if t := ast.NewTerm(next); !w.on.Contains(t) {
			w.from(t, length+1)
		} else {
			w.work += workPerStep * length
		}
		return w.work > w.most
	})
	w.on = on
}

// reachable is graph.reachable. OPA's goes along an edge as often as there are ways to
// it, until its end is reached: in a lattice of some thousand nodes that is for
// ever.
func reachable(b topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	graph, err := builtins.ObjectOperand(operands[0].Value, 1)
	if err != nil {
		return err
	}
	switch operands[1].Value.(type) {
	case *ast.Array, ast.Set:
	default:
		return builtins.NewOperandTypeErr(2, operands[1].Value, "{array, set}")
	}
	e, reached := evaluationOf(b), ast.NewSet()
	var todo []*ast.Term
	seen := ast.NewSet()
	add := func(v ast.Value) bool {
		if t := ast.NewTerm(v); !seen.Contains(t) {
			seen.Add(t)
			todo = append(todo, t)
		}
		return false
	}
	for eachOf(operands[1].Value, add); len(todo) > 0; todo = todo[1:] {
		edges := graph.Get(todo[0])
		if edges == nil {
			continue
		}
		reached.Add(todo[0])
		if !e.charge(128 * (1 + breadth(edges.Value))) {
			return tooMuch(ast.ReachableBuiltin.Name, b.Location)
		}
		eachOf(edges.Value, add)
	}
	return iter(ast.NewTerm(reached))
}
