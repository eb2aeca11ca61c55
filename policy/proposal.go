package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Proposal is exactly what a request would do, as somebody is asked to approve it: who
// does what, with which parameters, and who has to agree. Its text, which Encode
// writes, is JSON that people can read, and the digest of the text is the action that
// an approval is for. The text can be read back, so two requests that differ in a byte
// of anything here have different texts; whoever approves sees what is bound, and not
// what the requester says of it.
type Proposal struct {
	// Version is 1.
	Version int `json:"version"`
	// Approver is who has to agree, as the route says.
	Approver Approver `json:"approver"`
	// Route is the name of the route; empty for none.
	Route string `json:"route,omitempty"`
	// Requester is who asks.
	Requester Requester `json:"requester"`
	// Tenant owns what the request is for, as its caller says (Attributes.Tenant).
	Tenant string `json:"tenant,omitempty"`
	// Request is what goes over HTTP, Deed what an application does in its own words;
	// one of them is set.
	Request *ProposedRequest `json:"request,omitempty"`
	Deed    *ProposedDeed    `json:"action,omitempty"`
	// Model, Category and Call are those of Target; Tools are what it calls.
	Model    string         `json:"model,omitempty"`
	Category string         `json:"category,omitempty"`
	Call     string         `json:"call,omitempty"`
	Tools    []ProposedTool `json:"tools,omitempty"`
}

// Requester is who would do it: the principal, and who acts for it.
type Requester struct {
	Tenant string `json:"tenant,omitempty"`
	ID     string `json:"id"`
	Kind   Kind   `json:"kind"`
	Issuer string `json:"issuer,omitempty"`
	// Actors are those who act for it, outermost first.
	Actors []ProposedActor `json:"actors,omitempty"`
}

// ProposedActor is one who acts for the requester.
type ProposedActor struct {
	ID   string `json:"id"`
	Kind Kind   `json:"kind,omitempty"`
}

// ProposedRequest is an HTTP request.
type ProposedRequest struct {
	Method string `json:"method"`
	// Scheme, Host and Port are as in Request: read once, port 0 for the scheme's own.
	Scheme string `json:"scheme,omitempty"`
	Host   string `json:"host,omitempty"`
	Port   uint16 `json:"port,omitempty"`
	// Target is path and query as they were sent, byte by byte.
	Target string `json:"target"`
	// Headers are the fields that are part of what is done, as name and value in the
	// order in which they came.
	Headers [][2]string `json:"headers,omitempty"`
	// Body is the SHA-256 of the body in lower-case hex, Length its length in bytes.
	Body   string `json:"body_sha256,omitempty"`
	Length int64  `json:"body_length,omitempty"`
}

// ProposedDeed is an action in an application's own words.
type ProposedDeed struct {
	Name         string `json:"name"`
	ResourceType string `json:"resource_type,omitempty"`
	ResourceID   string `json:"resource_id,omitempty"`
	// Properties are of the resource, ActionProperties of the action itself.
	Properties       json.RawMessage `json:"properties,omitempty"`
	ActionProperties json.RawMessage `json:"action_properties,omitempty"`
}

// ProposedTool is a call of a tool.
type ProposedTool struct {
	Name   string `json:"name"`
	Schema string `json:"schema_sha256,omitempty"`
	// Arguments are there unless they are too long to be shown; then Digest is the
	// SHA-256 of their JSON in lower-case hex.
	Arguments json.RawMessage `json:"arguments,omitempty"`
	Digest    string          `json:"arguments_sha256,omitempty"`
}

// Proposed is a Proposal in the form in which it is handed on.
type Proposed struct {
	// Action is its digest: the SHA-256 of Text in lower-case hex.
	Action string
	// Text is what can be given to whoever is to approve it.
	Text string
}

const (
	// MaxProposal is the longest text of a proposal, in bytes.
	MaxProposal = 64 << 10
	// maxShown is how long the arguments of a tool may be to be shown, in bytes.
	maxShown = 4 << 10
)

// The ways in which a proposal has no text.
var (
	errNotText   = errors.New("it holds bytes that are no text")
	errTooLong   = errors.New("it is longer than a proposal can be")
	errNoRequest = errors.New("it is neither of a request nor of an action")
)

// Encode returns the proposal's text and its digest. An error says that there is none:
// what cannot be put into words exactly, nobody can approve.
func (p *Proposal) Encode() (Proposed, error) {
	if err := p.check(); err != nil {
		return Proposed{}, err
	}
	text, err := plainJSON(p)
	switch {
	case err != nil:
		return Proposed{}, err
	case !utf8.Valid(text): // members that are JSON already
		return Proposed{}, errNotText
	case len(text) > MaxProposal:
		return Proposed{}, errTooLong
	}
	return Proposed{Action: hexSum(text), Text: string(text)}, nil
}

// plainJSON writes JSON in the one form that counts here: names of objects in order,
// nothing escaped that need not be.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, errors.New("it cannot be written as JSON")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

func hexSum(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// check refuses what the text could not say exactly. encoding/json puts the same
// character in the place of all bytes that are no text, so that two would be one.
func (p *Proposal) check() error {
	switch {
	case p.Version != 1:
		return errors.New("its version is not 1")
	case !slices.Contains(Approver("").Values(), string(p.Approver)):
		return errors.New("it does not say who has to agree")
	case p.Requester.ID == "" || p.Requester.Kind == "" || p.Requester.Kind == KindAnonymous:
		return errors.New("it does not say who asks")
	case (p.Request == nil) == (p.Deed == nil):
		return errNoRequest
	case p.Deed != nil && p.Deed.Name == "":
		return errNoRequest
	}
	if r := p.Request; r != nil {
		switch {
		case r.Method == "" || !strings.HasPrefix(r.Target, "/"):
			return errNoRequest
		case (r.Body == "") != (r.Length == 0) || r.Length < 0 || r.Body != "" && !isSum(r.Body):
			return errors.New("its body has no digest")
		}
	}
	for i := range p.Tools {
		if t := &p.Tools[i]; t.Name == "" || t.Digest != "" && (!isSum(t.Digest) || t.Arguments != nil) {
			return errors.New("it calls a tool without a name, or with two sets of arguments")
		}
	}
	for _, text := range p.texts() {
		if !utf8.ValidString(text) {
			return errNotText
		}
	}
	return nil
}

// texts are all that is written as JSON strings.
func (p *Proposal) texts() []string {
	all := []string{string(p.Approver), p.Route, p.Requester.Tenant, p.Requester.ID, string(p.Requester.Kind), p.Requester.Issuer, p.Tenant, p.Model, p.Category, p.Call}
	for _, a := range p.Requester.Actors {
		all = append(all, a.ID, string(a.Kind))
	}
	if r := p.Request; r != nil {
		all = append(all, r.Method, r.Scheme, r.Host, r.Target, r.Body)
		for _, h := range r.Headers {
			all = append(all, h[0], h[1])
		}
	}
	if d := p.Deed; d != nil {
		all = append(all, d.Name, d.ResourceType, d.ResourceID)
	}
	for i := range p.Tools {
		all = append(all, p.Tools[i].Name, p.Tools[i].Schema, p.Tools[i].Digest)
	}
	return all
}

func isSum(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

// ParseProposal reads a proposal's text. Other JSON of the same meaning is taken as
// well: what counts is the text that Encode makes of it.
func ParseProposal(text string) (*Proposal, error) {
	if len(text) > MaxProposal {
		return nil, errTooLong
	}
	if !utf8.ValidString(text) {
		return nil, errNotText
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	p := new(Proposal)
	if err := d.Decode(p); err != nil {
		return nil, errors.New("it is not the JSON of a proposal")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the proposal")
	}
	var err error
	if p.Deed != nil {
		for _, properties := range []*json.RawMessage{&p.Deed.Properties, &p.Deed.ActionProperties} {
			if err == nil {
				*properties, err = canonicalJSON(*properties)
			}
		}
	}
	for i := range p.Tools {
		if err == nil {
			p.Tools[i].Arguments, err = canonicalJSON(p.Tools[i].Arguments)
		}
	}
	if err != nil {
		return nil, err
	}
	return p, p.check()
}

// canonicalJSON writes JSON in the form that plainJSON has. Numbers stay as they are
// written.
func canonicalJSON(text json.RawMessage) (json.RawMessage, error) {
	if text == nil {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, errors.New("a member is not JSON")
	}
	return plainJSON(v)
}

// Propose writes a JSON value for a proposal; nil if there is none. The error says that
// it has no exact text.
func Propose(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	if !isText(v) {
		return nil, errNotText
	}
	return plainJSON(v)
}

// isText reports whether all strings of a JSON value are text.
func isText(v any) bool {
	switch v := v.(type) {
	case string:
		return utf8.ValidString(v)
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !isText(e) })
	case map[string]any:
		for name, member := range v {
			if !utf8.ValidString(name) || !isText(member) {
				return false
			}
		}
	}
	return true
}

// ProposeTool writes a call of a tool.
func ProposeTool(c *ToolCall) (ProposedTool, error) {
	arguments, err := Propose(c.Arguments)
	t := ProposedTool{Name: c.Name, Schema: c.Schema, Arguments: arguments}
	if len(arguments) > maxShown {
		t.Arguments, t.Digest = nil, hexSum(arguments)
	}
	return t, err
}

// String says in one line what would be done and by whom, for people. Nothing in it can
// move a cursor.
func (p *Proposal) String() string {
	var b strings.Builder
	switch r := p.Request; {
	case r != nil:
		b.WriteString(r.Method + " ")
		if r.Scheme != "" {
			b.WriteString(r.Scheme + "://")
		}
		b.WriteString(r.Host)
		if r.Port != 0 {
			b.WriteString(":" + strconv.Itoa(int(r.Port)))
		}
		b.WriteString(r.Target)
		if r.Length > 0 {
			fmt.Fprintf(&b, " with %d bytes of SHA-256 %s", r.Length, r.Body)
		}
	case p.Deed != nil:
		b.WriteString(p.Deed.Name)
		if p.Deed.ResourceType+p.Deed.ResourceID != "" {
			b.WriteString(" of " + p.Deed.ResourceType + "/" + p.Deed.ResourceID)
		}
		b.Write(p.Deed.Properties)
		if p.Deed.ActionProperties != nil {
			b.WriteString(" with " + string(p.Deed.ActionProperties))
		}
	}
	for i := range p.Tools {
		t := &p.Tools[i]
		b.WriteString(", calling " + t.Name + "(" + string(t.Arguments) + t.Digest + ")")
	}
	if p.Model != "" {
		b.WriteString(", asking the model " + p.Model)
	}
	b.WriteString(", by " + p.Requester.ID)
	if p.Requester.Tenant != "" {
		b.WriteString(" of " + p.Requester.Tenant)
	}
	for _, a := range p.Requester.Actors {
		b.WriteString(" through " + a.ID)
	}
	return visible(b.String())
}

// visible writes out what is no graphic character, and what turns the direction of
// writing.
func visible(s string) string {
	var b strings.Builder
	for _, c := range s {
		if unicode.IsPrint(c) && !unicode.Is(unicode.Bidi_Control, c) {
			b.WriteRune(c)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(c), "'"))
		}
	}
	return b.String()
}
