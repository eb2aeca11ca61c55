package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-auth/postern/server/seal"
)

// Event is one decision in the format of OPA's decision log (EventV1 of its
// decision_logs plugin), with Postern's own fields in Postern. Who asked for what is
// in Input alone, so that what a mask takes out of there is nowhere.
type Event struct {
	// Labels name the process.
	Labels     map[string]string `json:"labels"`
	DecisionID string            `json:"decision_id"`
	// TraceID and SpanID are those of the check, if it is part of a trace.
	TraceID string `json:"trace_id,omitempty"`
	SpanID  string `json:"span_id,omitempty"`
	// Revision is that of the policy in force, Bundles those of its bundles.
	Revision string                   `json:"revision,omitempty"`
	Bundles  map[string]BundleVersion `json:"bundles,omitempty"`
	// Path is the rule that was asked, as OPA writes it: postern/authz/decision. Empty
	// if none was.
	Path string `json:"path,omitempty"`
	// Input is the input document; nil if it was masked, or could not be.
	Input map[string]any `json:"input,omitempty"`
	// Result is what the policy said, without header fields and dynamic metadata; nil
	// if it was not asked.
	Result any `json:"result,omitempty"`
	// Erased and Masked are the places that were taken out and changed, in order.
	Erased []string `json:"erased,omitempty"`
	Masked []string `json:"masked,omitempty"`
	// Error says why there was no answer.
	Error     *EventError      `json:"error,omitempty"`
	Timestamp time.Time        `json:"timestamp"`
	Metrics   map[string]int64 `json:"metrics,omitempty"`
	Postern   map[string]any   `json:"postern"`
}

// BundleVersion is the revision of one bundle.
type BundleVersion struct {
	Revision string `json:"revision,omitempty"`
}

// EventError is a fault: a reason and its message.
type EventError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// document is the event as a policy is shown it. It shares the input.
func (e *Event) document() (map[string]any, error) {
	shell := *e
	shell.Input = nil
	text, err := json.Marshal(&shell)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if e.Input != nil {
		doc["input"] = e.Input
	}
	return doc, nil
}

// The parts of an event that a mask may change.
const (
	partInput   = "input"
	partResult  = "result"
	partPostern = "postern"
	partCache   = "nd_builtin_cache" // OPA's; never in our events
)

// maxMasks bounds how many places one event's mask names.
const maxMasks = 1024

// copies are the places of Postern's part of the input that repeat one of the plugin's
// part. A mask written for OPA's plugin names those of the plugin alone.
var copies = []struct {
	place string
	also  []string
}{
	{"attributes/request/http/path", []string{
		"attributes/request/http/headers/:path", "attributes/request/http/query", "parsed_path", "parsed_query", "request/path", "request/folded",
		"request/segments", "request/query", "target/http/path", "target/http/folded",
	}},
	{"attributes/request/http/host", []string{"attributes/request/http/headers/:authority", "request/host", "target/http/host"}},
	{"attributes/request/http/body", []string{"parsed_body"}},
	{"parsed_body", []string{"attributes/request/http/body"}},
	{"parsed_path", []string{"request/segments"}},
	{"parsed_query", []string{"attributes/request/http/query", "request/query"}},
	{"attributes/source/address", []string{"request/client_ip", "attributes/request/http/headers/x-forwarded-for"}},
	{"attributes/source/principal", []string{"source_principal"}},
	{"source_principal", []string{"attributes/source/principal"}},
	{"attributes/contextExtensions", nil},
}

// maskRule is one rule of a mask.
type maskRule struct {
	path   []string // as written, from the part of the event on
	upsert bool
	value  any
}

var errMask = errors.New("the mask is no list of places")

// parseMask reads what a policy says is to be masked: a list of JSON pointers, or of
// objects {op, path, value} whose op is "remove" or "upsert". All of it must be
// understood: what is not may be what was to be hidden.
func parseMask(mask any) ([]maskRule, error) {
	if mask == nil {
		return nil, nil
	}
	list, ok := mask.([]any)
	if !ok || len(list) > maxMasks {
		return nil, errMask
	}
	rules := make([]maskRule, len(list))
	for i, one := range list {
		if err := rules[i].parse(one); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

func (r *maskRule) parse(one any) error {
	pointer, ok := one.(string)
	if object, is := one.(map[string]any); is {
		pointer, ok = object["path"].(string)
		op, named := object["op"].(string)
		switch {
		case !named && object["op"] != nil, named && op != "remove" && op != "upsert":
			return errors.New("a rule of the mask has another op than remove and upsert")
		case op == "upsert":
			r.upsert, r.value = true, object["value"]
		}
	}
	if !ok || !strings.HasPrefix(pointer, "/") {
		return errors.New("a rule of the mask names no place, such as /input/parsed_body")
	}
	r.path = strings.Split(pointer[1:], "/")
	if !slices.Contains([]string{partInput, partResult, partPostern, partCache}, r.path[0]) {
		return fmt.Errorf("a rule of the mask is about another part than %s and %s", partInput, partResult)
	}
	return nil
}

// apply masks an event. A place that is not there is left out, as in OPA.
func (e *Event) apply(rules []maskRule) {
	for _, r := range rules {
		if r.path[0] == partCache || !e.applyOne(r.path, r) {
			continue
		}
		e.note(r.path, r.upsert)
		for _, also := range copiesOf(r.path) {
			if e.applyOne(also, maskRule{}) {
				e.note(also, false)
			}
		}
	}
}

// note says of a place that it was taken out or changed. Clients choose some of the names
// in it, so that one may be a secret itself.
func (e *Event) note(path []string, masked bool) {
	list := &e.Erased
	if masked {
		list = &e.Masked
	}
	*list = append(*list, scrubText("/"+strings.Join(path, "/")))
}

// applyOne changes one place, and reports whether there was something to change.
func (e *Event) applyOne(path []string, r maskRule) bool {
	root := map[string]any{}
	switch {
	case path[0] == partInput && e.Input != nil:
		root[partInput] = e.Input
	case path[0] == partResult && e.Result != nil:
		root[partResult] = e.Result
	case path[0] == partPostern:
		root[partPostern] = e.Postern
	default:
		return false
	}
	changed := change(root, path, r)
	switch path[0] {
	case partInput:
		e.Input, _ = root[partInput].(map[string]any)
	case partResult:
		e.Result = root[partResult]
	default:
		e.Postern, _ = root[partPostern].(map[string]any)
	}
	return changed
}

// copiesOf are the other places that hold the same.
func copiesOf(path []string) (all [][]string) {
	if path[0] != partInput || len(path) < 2 {
		return nil
	}
	for _, c := range copies {
		place := strings.Split(c.place, "/")
		if n := min(len(place), len(path)-1); !slices.Equal(place[:n], path[1:n+1]) {
			continue
		}
		for _, also := range c.also {
			all = append(all, append([]string{partInput}, strings.Split(also, "/")...))
		}
	}
	return all
}

// change removes or sets what is at a path below a value. A step stands for the name
// as it is written and for what it stands for with ~1 (RFC 6901) or %2F in it: of two
// readings both are taken out.
func change(at any, path []string, r maskRule) (changed bool) {
	last := len(path) == 1
	switch at := at.(type) {
	case map[string]any:
		names := readings(path[0])
		for _, name := range names {
			below, there := at[name]
			switch {
			case !there:
			case !last:
				below, changed = through(below, path[1:], r, changed)
				at[name] = below
			case r.upsert:
				at[name], changed = r.value, true
			default:
				delete(at, name)
				changed = true
			}
		}
		if r.upsert && !changed && !slices.ContainsFunc(names, func(n string) bool { return at[n] != nil }) {
			at[names[0]], changed = grown(path[1:], r.value), true
		}
	case []any:
		if i := index(path[0], len(at)); i >= 0 && !last {
			at[i], changed = through(at[i], path[1:], r, false)
		} else if i >= 0 && r.upsert {
			at[i], changed = r.value, true
		}
	}
	return changed
}

// through changes what lies below a value; an element of a list is taken out here,
// because the list gets shorter.
func through(below any, path []string, r maskRule, before bool) (any, bool) {
	if list, ok := below.([]any); ok && len(path) == 1 && !r.upsert {
		if i := index(path[0], len(list)); i >= 0 {
			return slices.Delete(list, i, i+1), true
		}
		return below, before
	}
	return below, change(below, path, r) || before
}

// grown is a value that is set where there was nothing.
func grown(path []string, value any) any {
	for _, step := range slices.Backward(path) {
		value = map[string]any{step: value}
	}
	return value
}

func readings(step string) []string {
	all := []string{step}
	pointer := strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
	escaped, err := url.PathUnescape(step)
	for _, other := range []string{pointer, escaped} {
		if other != step && !(other == escaped && err != nil) {
			all = append(all, other)
		}
	}
	return all
}

func index(step string, n int) int {
	at := 0
	for _, c := range step {
		if c < '0' || c > '9' || at > n {
			return -1
		}
		at = at*10 + int(c-'0')
	}
	if step == "" || at >= n {
		return -1
	}
	return at
}

// withhold takes out of the input what is not for logs in this configuration, and says
// so in Erased: the body as it was sent, queries and what was read of bodies unless they
// are wanted, and what has a name as secrets have.
func (e *Event) withhold(query, body bool, secret func(name string) bool) {
	take := func(steps ...string) {
		path := append([]string{partInput}, steps...)
		if !holdsNothing(below(e.Input, steps...)) && e.applyOne(path, maskRule{}) {
			e.note(path, false)
		}
	}
	take("attributes", "request", "http", "body")
	if !body {
		take("parsed_body")
	}
	tidy := func(query string) string { return tidyQuery(query, secret) }
	if !query {
		take("attributes", "request", "http", "query")
		take("request", "query")
		take("parsed_query")
		tidy = nil
	}
	e.tidyQueries(tidy)
	for _, place := range [][]string{
		{"attributes", "request", "http", "headers"}, {"parsed_query"}, {"parsed_body"}, {"principal", "metadata"}, {"principal", "claims"}, {"context"},
		{"attributes", "contextExtensions"}, {"attributes", "metadataContext"}, {"target", "action", "properties"},
	} {
		e.eraseSecrets(append([]string{partInput}, place...), below(e.Input, place...), secret)
	}
}

// holdsNothing reports that there is nothing to hide: that a request has no body is for
// those who replay decisions.
func holdsNothing(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// targets are the fields that repeat the request target, query included.
var targets = []string{":path", "referer", "x-envoy-original-path", "x-forwarded-uri", "x-original-uri", "x-original-url"}

// tidyQueries cuts off the queries of whole targets, or lets tidy change them.
func (e *Event) tidyQueries(tidy func(string) string) {
	http, _ := below(e.Input, "attributes", "request", "http").(map[string]any)
	headers, _ := http["headers"].(map[string]any)
	request, _ := e.Input["request"].(map[string]any)
	change := func(object map[string]any, name string, place ...string) {
		before, _ := object[name].(string)
		after, query, found := strings.Cut(before, "?")
		switch {
		case name == "query" && tidy != nil:
			after = tidy(before)
		case found && tidy != nil:
			after += "?" + tidy(query)
		}
		if after != before {
			object[name] = after
			e.note(append(place, name), true)
		}
	}
	change(http, "path", partInput, "attributes", "request", "http")
	change(http, "query", partInput, "attributes", "request", "http")
	change(request, "query", partInput, "request")
	for _, name := range targets {
		change(headers, name, partInput, "attributes", "request", "http", "headers")
	}
}

// tidyQuery leaves out the values of parameters that look like secrets.
func tidyQuery(query string, secret func(string) bool) string {
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		name, _, valued := strings.Cut(pair, "=")
		plain, err := url.QueryUnescape(name)
		if valued && (err != nil || secret(plain)) {
			pairs[i] = name + "="
		}
	}
	return strings.Join(pairs, "&")
}

func below(at any, path ...string) any {
	for _, step := range path {
		object, _ := at.(map[string]any)
		at = object[step]
	}
	return at
}

// eraseSecrets takes out the members, at any depth, whose names look like those of
// secrets.
func (e *Event) eraseSecrets(path []string, at any, secret func(string) bool) {
	switch at := at.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(at)) {
			v := at[name]
			if secret(name) {
				delete(at, name)
				e.note(append(slices.Clip(path), name), false)
				continue
			}
			e.eraseSecrets(append(slices.Clip(path), name), v, secret)
		}
	case []any:
		for i, v := range at {
			e.eraseSecrets(append(slices.Clip(path), fmt.Sprint(i)), v, secret)
		}
	}
}

// scrubbed takes secrets out of all texts of a value, names included.
func scrubbed(v any) any {
	switch v := v.(type) {
	case string:
		return scrubText(v)
	case []any:
		for i := range v {
			v[i] = scrubbed(v[i])
		}
	case map[string]any:
		for _, name := range slices.Collect(maps.Keys(v)) {
			m := v[name]
			delete(v, name)
			v[scrubText(name)] = scrubbed(m)
		}
	}
	return v
}

// Tidy makes a text that a client or an issuer chose fit for others to read: cut, without
// secrets, and without what terminals obey.
func Tidy(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' {
			return ' '
		}
		return c
	}, scrubText(plain(s)))
}

// scrubText also makes a text valid UTF-8, as JSON wants it.
func scrubText(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	return seal.Scrub(s)
}
