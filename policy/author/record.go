package author

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/canonical"
)

// Record is one decision that somebody recorded, with as much of its input as the
// recorder wrote.
type Record struct {
	// Line is where it begins in the file.
	Line int
	ID   string
	Time time.Time
	// Method, Host and Path say what was asked; never the query.
	Method, Host, Path string
	Principal, Route   string
	// Allowed is the recorded answer and Reason its code; Answered says that there is
	// one.
	Allowed, Answered bool
	Reason            string

	// One of them is the input.
	document any
	question *Question
	// known are the places of the input that the record holds, each with all below it;
	// nil for all of them but erased.
	known  [][]string
	erased [][]string
	// skip says why it is none of the policy's decisions.
	skip string
	// cut says that a text of the request may not be the whole one.
	cut bool
}

// maxRecord bounds one record.
const maxRecord = 16 << 20

// errNoRecord says that a line is none of the formats that are read.
var errNoRecord = errors.New("neither a line of OPA's decision log nor one of Postern's")

// ReadRecords reads decisions one by one and hands each to take. It knows the lines of
// OPA's decision log, of Postern's own log (JSON), and the records of the admin API, as
// `postern explain -o json` prints them. Lines of Postern's log that are about something
// else are left out. The error names the line.
func ReadRecords(r io.Reader, take func(*Record) error) error {
	in := &lineReader{from: r, line: 1}
	values := json.NewDecoder(in)
	for {
		var text json.RawMessage
		err := values.Decode(&text)
		end := values.InputOffset()
		if errors.Is(err, io.EOF) {
			return nil
		}
		begin := end - int64(len(text))
		if wrong, ok := errors.AsType[*json.SyntaxError](err); ok {
			begin = max(begin, wrong.Offset-1)
		}
		line := in.at(begin)
		switch {
		case errors.Is(err, errLongRecord), errors.Is(in.err, errLongRecord):
			return fmt.Errorf("line %d: %w", line, errLongRecord)
		case in.err != nil && !errors.Is(in.err, io.EOF):
			return in.err
		case err != nil:
			return fmt.Errorf("line %d: this is not JSON", line)
		}
		in.left = maxRecord
		records, err := parseRecord(text)
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		for _, rec := range records {
			rec.Line = line
			if err := take(rec); err != nil {
				return err
			}
		}
	}
}

// lineReader knows on which line each byte stands that was not passed yet, and lets
// through so many bytes for each record.
type lineReader struct {
	from  io.Reader
	left  int
	read  int64   // bytes
	line  int     // of the byte that was asked for last
	feeds []int64 // where lines end after it
	err   error
}

var errLongRecord = fmt.Errorf("the record is longer than %d MiB", maxRecord>>20)

// Read implements io.Reader.
func (l *lineReader) Read(into []byte) (int, error) {
	if l.read == 0 {
		l.left = maxRecord
	}
	if l.left <= 0 {
		l.err = errLongRecord
		return 0, l.err
	}
	n, err := l.from.Read(into)
	for i, c := range into[:n] {
		if c == '\n' {
			l.feeds = append(l.feeds, l.read+int64(i))
		}
	}
	l.read, l.left, l.err = l.read+int64(n), l.left-n, err
	return n, err
}

// at is the line of a byte. Bytes before it are not asked for again.
func (l *lineReader) at(offset int64) int {
	n := 0
	for n < len(l.feeds) && l.feeds[n] < offset {
		n++
	}
	l.line, l.feeds = l.line+n, l.feeds[n:]
	return l.line
}

// parseRecord finds out what a value is. An array, and an answer of the admin API, hold
// several.
func parseRecord(text []byte) ([]*Record, error) {
	v, err := rego.DecodeDocument(text)
	if err != nil {
		return nil, errors.New("this is not JSON with one reading")
	}
	return recordsIn(v)
}

func recordsIn(v any) (all []*Record, err error) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			some, err := recordsIn(e)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
		return all, nil
	case map[string]any:
		f := fields(v)
		switch {
		case f["decisions"] != nil:
			return recordsIn(f["decisions"])
		case f.object("record") != nil:
			return recordsIn(f["record"])
		case f.object("decision") != nil:
			return []*Record{f.adminRecord()}, nil
		case f.text("msg") == "decision" && f.text("decision_id") != "":
			return []*Record{f.logRecord()}, nil
		case f.text("msg") != "" && f.text("level") != "" && f.text("time") != "" && f["input"] == nil:
			return nil, nil // another line of the log
		case f.text("decision_id") != "" || f["input"] != nil || f["erased"] != nil:
			return []*Record{f.opaRecord()}, nil
		}
	}
	return nil, errNoRecord
}

// fields is a JSON object that is looked at without trust in it.
type fields map[string]any

func (f fields) object(names ...string) fields {
	for _, name := range names {
		m, _ := f[name].(map[string]any)
		f = m
	}
	return f
}

func (f fields) text(name string) string {
	s, _ := f[name].(string)
	return s
}

func (f fields) texts(name string) (all []string) {
	list, _ := f[name].([]any)
	for _, e := range list {
		if s, ok := e.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

func (f fields) time(name string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, f.text(name))
	return t
}

// opaRecord reads an event of OPA's decision log. Its input is the whole one but for
// what a mask took out.
func (f fields) opaRecord() *Record {
	input := f.object("input")
	r := &Record{
		ID: f.text("decision_id"), Time: f.time("timestamp"), document: f["input"],
		Principal: input.object("principal").text("id"), Route: input.object("route").text("name"),
	}
	http := input.object("attributes", "request", "http")
	r.Method, r.Host, r.Path = http.text("method"), http.text("host"), http.text("path")
	if own := input.object("request"); own.text("path") != "" {
		r.Method, r.Host, r.Path = own.text("method"), own.text("host"), own.text("path")
	}
	r.Path, _, _ = strings.Cut(r.Path, "?")
	for _, list := range []string{"erased", "masked"} {
		for _, pointer := range f.texts(list) {
			r.erase(pointer)
		}
	}
	switch result := f["result"].(type) {
	case bool:
		r.Allowed, r.Answered = result, true
	case map[string]any:
		yes, ok := result["allow"].(bool)
		if !ok {
			yes, ok = result["allowed"].(bool)
		}
		r.Allowed, r.Answered = yes, ok
		r.Reason = fields(result).text("reason")
	}
	if f["input"] == nil {
		r.erased = [][]string{{}} // all of it
	}
	if own := f.object("postern"); own != nil { // an event of Postern's
		if yes, ok := own["allowed"].(bool); ok && !r.Answered {
			r.Allowed, r.Answered = yes, true
		}
		r.Reason = cmp.Or(r.Reason, own.text("reason"))
		r.decidedIn(own.text("phase"))
	}
	if f["error"] != nil && r.skip == "" {
		r.skip = "it ended in an error"
	}
	return r
}

// erase notes what a mask took out: "/input/attributes/request/http/body".
func (r *Record) erase(pointer string) {
	steps := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	if steps[0] != "input" {
		return // of the result
	}
	for i := range steps {
		steps[i] = strings.ReplaceAll(strings.ReplaceAll(steps[i], "~1", "/"), "~0", "~") // RFC 6901
	}
	r.erased = append(r.erased, steps[1:])
}

// What the two forms of Postern's own records hold of the input.
var (
	logKnown = places(`request.method request.host request.path request.segments request.folded request.client_ip
		target.http.method target.http.host target.http.path target.http.folded parsed_path version route.name
		principal.id principal.tenant principal.method principal.credential_id principal.issuer`)
	adminKnown = append(places(`principal.kind principal.roles principal.scopes principal.permissions principal.assurance
		principal.acr principal.amr`), logKnown...)
)

func places(list string) (all [][]string) {
	for _, p := range strings.Fields(list) {
		all = append(all, strings.Split(p, "."))
	}
	return all
}

// logRecord reads a line of Postern's own log.
func (f fields) logRecord() *Record {
	r := &Record{
		ID: f.text("decision_id"), Time: f.time("time"), Method: f.text("method"), Host: f.text("host"), Path: f.text("path"),
		Principal: f.text("principal"), Route: f.text("route"), Reason: f.text("reason"), known: logKnown,
	}
	r.Allowed, r.Answered = f["allowed"] == true, true
	r.decidedIn(f.text("phase"))
	r.question = &Question{Principal: &Principal{
		ID: r.Principal, Tenant: f.text("tenant"), Method: f.text("principal_method"),
		CredentialID: f.text("credential"), Issuer: f.text("issuer"),
	}}
	r.asked(f.text("client"))
	return r
}

// adminRecord reads a DecisionRecord of the admin API.
func (f fields) adminRecord() *Record {
	d, p := f.object("decision"), f.object("principal")
	r := &Record{
		ID: d.text("decision_id"), Time: f.time("time"), Method: f.text("method"), Host: f.text("host"), Path: f.text("path"),
		Principal: p.text("id"), Route: f.text("route"), known: adminKnown,
		Reason: strings.ToLower(strings.TrimPrefix(d.text("reason"), "REASON_")),
	}
	r.Allowed, r.Answered = d["allowed"] == true, true
	r.decidedIn(f.text("phase"))
	r.question = &Question{Principal: &Principal{
		ID: p.text("id"), Kind: strings.ToLower(strings.TrimPrefix(p.text("kind"), "PRINCIPAL_KIND_")), Tenant: p.text("tenant"),
		Roles: p.texts("roles"), Scopes: p.texts("scopes"), Permissions: p.texts("permissions"),
		Method: p.text("method"), CredentialID: p.text("credential_id"), Issuer: p.text("issuer"),
		ACR: p.text("acr"), AMR: p.texts("amr"),
	}}
	if n, ok := p["assurance"].(json.Number); ok {
		level, _ := n.Int64()
		r.question.Principal.Assurance = int(level)
	}
	r.asked(f.text("client_ip"))
	return r
}

// decidedIn leaves out what was refused before a policy was asked, and reads an allow
// that a budget took back as the policy's allow.
func (r *Record) decidedIn(phase string) {
	switch phase {
	case "decide", "record", "":
	case "spend":
		r.Allowed, r.Reason = true, "allowed"
	default:
		r.skip = "it was refused before the policy was asked, in the phase " + phase
	}
	if reason, ok := policy.ParseReason(r.Reason); ok && reason.Fault() {
		r.skip = "it ended in a fault: " + r.Reason
	}
}

// loggedText is how long a text may be in a record of Postern's without a doubt that it
// was cut, in bytes: the log cuts at 256, between two characters. What terminals obey
// is written there as an escape, which cannot be told from the text itself.
const loggedText = 253

// asked fills the request of a record of Postern's own. One with a method is about no
// action, and one without a route had none.
func (r *Record) asked(client string) {
	r.question.Request = &Request{Method: r.Method, Host: r.Host, Path: r.Path, Source: client}
	if r.Method == "" {
		r.skip = "it is about an action, of which the log does not hold enough"
	}
	for _, text := range []string{r.Method, r.Host, r.Path, r.Principal} {
		r.cut = r.cut || len(text) >= loggedText || strings.Contains(text, `\u`)
	}
	r.known = append(slices.Clip(r.known), []string{"target", "action"})
	if r.Route == "" {
		r.known = append(r.known, []string{"route"})
	} else {
		r.question.Route = &Route{Name: r.Route}
	}
	if r.question.Principal.ID == "" { // anonymous, who has nothing
		r.question.Principal = nil
		r.known = append(r.known, []string{"principal"})
	}
}

// Know fills in a principal that the record only names: what it had when it was
// recorded is not known, so the answer is about what it has now.
func (r *Record) Know(p *Principal) {
	if r.question == nil || r.question.Principal == nil || p.ID != r.Principal || p.Tenant != r.question.Principal.Tenant {
		return
	}
	own := *p
	q := r.question.Principal
	own.Method, own.CredentialID, own.Issuer = orElse(q.Method, own.Method), q.CredentialID, q.Issuer
	r.question.Principal = &own
	r.known = append(slices.Clone(r.known), []string{"principal"})
}

// Lead fills in the route that the record only names, as a configuration has it now.
func (r *Record) Lead(route *Route) {
	if r.question == nil || r.Route == "" || route.Name != r.Route {
		return
	}
	r.question.Route = route
	r.known = append(slices.Clone(r.known), []string{"route"})
}

// input makes the input document for a policy. Header fields that the policy would not
// be shown are taken out, whatever the record holds.
func (r *Record) input(p *Policy) (*ast.Term, error) {
	if r.question == nil {
		hide(r.document, p.Hidden())
		v, err := ast.InterfaceToValue(r.document)
		return ast.NewTerm(v), err
	}
	in, err := r.question.recorded()
	if err != nil {
		return nil, err
	}
	return p.Document(in)
}

// recorded is Input for a path that canonical has read already: it is not decoded
// again.
func (q *Question) recorded() (*policy.Input, error) {
	path := q.Request.Path
	plain := *q
	plain.Request = &Request{Method: q.Request.Method, Host: q.Request.Host, Path: "/"}
	in, err := plain.Input()
	if err != nil {
		return nil, err
	}
	in.Attributes.Path = path
	in.Request.Path, in.Request.Folded = path, canonical.Fold(path)
	in.Request.Segments = strings.Split(strings.TrimPrefix(path, "/"), "/")
	in.Request.ClientIP, _ = netip.ParseAddr(q.Request.Source) // none if the record has none
	return in, nil
}

// hide takes header fields out of an input document.
func hide(document any, names []string) {
	m, _ := document.(map[string]any)
	headers := fields(m).object("attributes", "request", "http", "headers")
	for name := range headers {
		if slices.Contains(names, strings.ToLower(name)) {
			delete(headers, name)
		}
	}
}

// missing are the places that the policy can read and the record does not hold.
func (r *Record) missing(p *Policy) (all []string) {
	for _, path := range p.Analysis.Paths {
		if !r.holds(path, p.Hidden()) {
			all = append(all, path.String())
		}
	}
	return all
}

// own are the parts of the input that Postern adds to what OPA's plugin for Envoy
// records.
var own = []string{"request", "principal", "peer", "route", "target", "context"}

func (r *Record) holds(path rego.Path, hidden []string) bool {
	if r.known == nil {
		document, _ := r.document.(map[string]any)
		foreign := fields(document).object("request") == nil && fields(document).object("target") == nil
		if foreign && len(path.Ref) > 0 && slices.Contains(own, path.Ref[0]) {
			return false
		}
		return !slices.ContainsFunc(r.erased, func(gone []string) bool {
			return !isHidden(gone, hidden) && (begins(path.Ref, gone) || begins(gone, path.Ref) && !path.ShapeOnly)
		})
	}
	return slices.ContainsFunc(r.known, func(place []string) bool {
		return begins(path.Ref, place) || path.ShapeOnly && begins(place, path.Ref)
	})
}

// isHidden reports whether a place is a header field that no policy is shown.
func isHidden(place, hidden []string) bool {
	at := []string{"attributes", "request", "http", "headers"}
	return len(place) > len(at) && begins(place, at) && slices.Contains(hidden, strings.ToLower(place[len(at)]))
}

// begins reports whether a place is another or below it.
func begins(place, above []string) bool {
	return len(place) >= len(above) && slices.Equal(place[:len(above)], above)
}
