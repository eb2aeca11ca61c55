// Package authzen is the door for enforcement points that speak OpenID AuthZEN's
// Authorization API 1.0: POST /access/v1/evaluation and /access/v1/evaluations.
//
//	AuthZEN                           Postern
//	action.name                       what is to be done
//	resource.type, .id, .properties   to what; properties.tenant owns it
//	subject                           who wants it, see below
//	context                           further facts for the policy
//
// In AuthZEN the enforcement point says who the subject is. Postern believes that only
// of callers whose configuration says so (trust: subject). From all others it wants the
// subject's credential, in subject.properties.api_key or .bearer_token; then the
// subject's id, if there is one, has to be that of the principal that the credential
// proves. No policy sees the credential.
//
// The answer is {"decision": …}, with the reason in its context. A decision is true only
// for an allow: what cannot be read is 400, and every fault a false.
package authzen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/jose"
)

// Name is how Attributes and metrics call this door.
const Name = "authzen"

// The paths of the API, and of what it says about itself.
const (
	EvaluationPath  = "/access/v1/evaluation"
	EvaluationsPath = "/access/v1/evaluations"
	MetadataPath    = "/.well-known/authzen-configuration"
)

// maxItems is the most questions that one batch may hold.
const maxItems = 100

// Checker decides. It never panics and never errs: a fault is a deny.
type Checker interface {
	Check(ctx context.Context, a *policy.Attributes) policy.Decision
}

// Door serves the protocol. It is immutable and safe for concurrent use.
type Door struct {
	checker    Checker
	maxMessage int
	log        *slog.Logger
}

// New returns the door to a Checker. A question may have maxMessage bytes. A panic is
// reported to log; nil means the default logger.
func New(c Checker, maxMessage int, log *slog.Logger) *Door {
	if log == nil {
		log = slog.Default()
	}
	return &Door{checker: c, maxMessage: maxMessage, log: log}
}

// Register offers the API.
func (d *Door) Register(mux *http.ServeMux) {
	mux.HandleFunc("POST "+EvaluationPath, func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, d.evaluation) })
	mux.HandleFunc("POST "+EvaluationsPath, func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, d.evaluations) })
	mux.HandleFunc("GET "+MetadataPath, metadata)
}

// answer is what is said of one question.
type answer struct {
	Decision bool    `json:"decision"`
	Context  *reason `json:"context,omitempty"`
}

type reason struct {
	Reason             string         `json:"reason"`
	Message            string         `json:"message,omitempty"`
	Status             int            `json:"http_status,omitempty"`
	DecisionID         string         `json:"decision_id,omitempty"`
	MissingScopes      []string       `json:"missing_scopes,omitempty"`
	MissingPermissions []string       `json:"missing_permissions,omitempty"`
	Obligations        []obligation   `json:"obligations,omitempty"`
	Metadata           map[string]any `json:"metadata,omitempty"`
}

type obligation struct {
	Type       string         `json:"type"`
	Parameters map[string]any `json:"parameters,omitempty"`
}

// requestID is the header field by which both sides log a request.
const requestID = "X-Request-Id"

func (d *Door) serve(w http.ResponseWriter, r *http.Request, evaluate func(*http.Request, jose.Value) (any, error)) {
	w.Header().Set("Cache-Control", "no-store")
	if id := r.Header.Get(requestID); id != "" && len(id) <= 128 && door.Sendable(policy.Header{Name: "x-request-id", Value: id}) {
		w.Header().Set(requestID, id)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		say(w, http.StatusUnsupportedMediaType, "the question is application/json")
		return
	}
	if door.IsUnlisted(r.Context()) {
		say(w, http.StatusForbidden, "this caller is not in the configuration's list of callers")
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(d.maxMessage)))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		say(w, http.StatusRequestEntityTooLarge, "the question is too large")
		return
	case err != nil:
		return // whoever asked has gone
	}
	question, err := jose.ParseJSON(text, jose.Limits{Bytes: d.maxMessage, Members: 1024, Depth: door.MaxDepth})
	if err != nil {
		say(w, http.StatusBadRequest, err.Error())
		return
	}
	reply, err := evaluate(r, question)
	if err != nil {
		say(w, http.StatusBadRequest, err.Error())
		return
	}
	body, err := json.Marshal(reply)
	if err != nil {
		say(w, http.StatusInternalServerError, "internal error")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

// say answers with an error, which AuthZEN writes as a text.
func say(w http.ResponseWriter, status int, message string) { http.Error(w, message, status) }

func (d *Door) evaluation(r *http.Request, question jose.Value) (any, error) {
	q, err := read(question, jose.Value{})
	if err != nil {
		return nil, err
	}
	return d.ask(r, q), nil
}

// stops says for each semantic after which answer a batch ends.
var stops = map[string]func(allowed bool) bool{
	"execute_all":            func(bool) bool { return false },
	"deny_on_first_deny":     func(allowed bool) bool { return !allowed },
	"permit_on_first_permit": func(allowed bool) bool { return allowed },
}

// evaluations decides on many questions, in order. What an item leaves out is that of the
// whole; without items the whole is the one question. Nothing is decided unless all can
// be read.
func (d *Door) evaluations(r *http.Request, whole jose.Value) (any, error) {
	items := whole.Get("evaluations")
	if !items.Exists() || items.Kind() == jose.Array && items.Len() == 0 {
		return d.evaluation(r, whole)
	}
	if items.Kind() != jose.Array || items.Len() > maxItems {
		return nil, fmt.Errorf("evaluations: 1 to %d questions", maxItems)
	}
	stop, err := readStop(whole.Get("options"))
	if err != nil {
		return nil, err
	}
	var questions []*policy.Attributes
	for item := range items.Elements() {
		if item.Kind() != jose.Object {
			return nil, fmt.Errorf("evaluations[%d] is no object", len(questions))
		}
		q, err := read(item, whole)
		if err != nil {
			return nil, fmt.Errorf("evaluations[%d].%w", len(questions), err)
		}
		questions = append(questions, q)
	}
	var reply struct {
		Evaluations []answer `json:"evaluations"`
	}
	for _, q := range questions {
		if r.Context().Err() != nil {
			break
		}
		one := d.ask(r, q)
		if reply.Evaluations = append(reply.Evaluations, one); stop(one.Decision) {
			break
		}
	}
	return reply, nil
}

// readStop reads the semantic of a batch. One that cannot be read is not the usual one:
// whoever wants a batch to end at the first deny does not want the rest decided.
func readStop(options jose.Value) (stop func(allowed bool) bool, err error) {
	if _, err := object("options", options); err != nil {
		return nil, err
	}
	name := "execute_all"
	if semantic := options.Get("evaluations_semantic"); semantic.Exists() {
		text, ok := semantic.Text()
		if !ok {
			return nil, errors.New("options.evaluations_semantic is no text")
		}
		name = text
	}
	stop, known := stops[name]
	if !known {
		return nil, errors.New("options.evaluations_semantic is not known")
	}
	return stop, nil
}

// read reads a question, of which the whole batch may say a part.
func read(item, whole jose.Value) (*policy.Attributes, error) {
	if item.Kind() != jose.Object {
		return nil, errors.New("a question is an object")
	}
	part := func(name string) jose.Value {
		if v := item.Get(name); v.Exists() {
			return v
		}
		return whole.Get(name)
	}
	a := &policy.Attributes{Size: -1, Action: &policy.Action{}}
	if err := readSubject(a, part("subject")); err != nil {
		return nil, err
	}
	action, resource := part("action"), part("resource")
	for _, f := range []struct {
		name string
		from jose.Value
		into *string
	}{{"action.name", action.Get("name"), &a.Action.Name}, {"resource.type", resource.Get("type"), &a.Action.ResourceType}, {"resource.id", resource.Get("id"), &a.Action.ResourceID}} {
		text, ok := f.from.Text()
		if !ok || text == "" {
			return nil, errors.New(f.name + " is required")
		}
		*f.into = text
	}
	properties, err := object("resource.properties", resource.Get("properties"))
	if err != nil {
		return nil, err
	}
	a.Action.Properties = properties
	if a.Tenant, err = tenantOf("resource", resource.Get("properties")); err != nil {
		return nil, err
	}
	if a.Context, err = object("context", part("context")); err != nil {
		return nil, err
	}
	how, err := object("action.properties", action.Get("properties"))
	if len(how) > 0 && err == nil {
		if a.Context == nil {
			a.Context = map[string]any{}
		}
		a.Context["action_properties"] = how
	}
	return a, err
}

// readSubject reads who the subject is said to be, and the credential that proves it.
func readSubject(a *policy.Attributes, subject jose.Value) error {
	kind, ok := subject.Get("type").Text()
	if !ok || kind == "" {
		return errors.New("subject.type is required")
	}
	id, ok := subject.Get("id").Text()
	if !ok || id == "" {
		return errors.New("subject.id is required")
	}
	facts := subject.Get("properties")
	properties, err := object("subject.properties", facts)
	if err != nil {
		return err
	}
	who := policy.Owner{ID: id, Kind: policy.Kind(kind)}
	for _, use := range []struct{ member, use string }{{"api_key", "api_key"}, {"bearer_token", "bearer"}} {
		given := facts.Get(use.member)
		if !given.Exists() {
			continue
		}
		text, ok := given.Text()
		if !ok || a.Presented != nil {
			return errors.New("subject.properties holds more than one credential, or one that is no text")
		}
		a.Presented = &policy.Presented{Use: use.use, Secret: policy.NewSecret(text), Of: who}
	}
	if a.Presented != nil {
		return nil
	}
	tenant, err := tenantOf("subject", facts)
	if err != nil {
		return err
	}
	a.Asserted = &policy.Asserted{ID: who.ID, Kind: who.Kind, Tenant: tenant, Properties: properties}
	return nil
}

// tenantOf reads a tenant; empty if none is named.
func tenantOf(whose string, properties jose.Value) (string, error) {
	v := properties.Get("tenant")
	if !v.Exists() {
		return "", nil
	}
	text, ok := v.Text()
	if !ok {
		return "", errors.New(whose + ".properties.tenant is no text")
	}
	return text, nil
}

func object(name string, v jose.Value) (map[string]any, error) {
	if !v.Exists() || v.Kind() == jose.Null {
		return nil, nil
	}
	m, ok := v.Any().(map[string]any)
	if !ok {
		return nil, errors.New(name + " is no object")
	}
	return m, nil
}

// ask puts the question. A panic is a deny.
func (d *Door) ask(r *http.Request, a *policy.Attributes) (out answer) {
	defer func() {
		if thrown := recover(); thrown != nil {
			door.Recovered(r.Context(), d.log, Name, thrown)
			dec := door.Fault()
			out = render(&dec)
		}
	}()
	a.Door, a.Caller, a.RequestID = Name, door.Caller(r.Context()), r.Header.Get(requestID)
	dec := d.checker.Check(r.Context(), a)
	door.Settle(&dec)
	return render(&dec)
}

func render(d *policy.Decision) answer {
	why := &reason{Reason: d.Reason.Public(), Message: d.Message, Status: d.Status, DecisionID: d.ID, MissingScopes: d.MissingScopes, MissingPermissions: d.MissingPermissions}
	if v := d.Verdict; v != nil && d.Allowed {
		for _, o := range v.Obligations {
			why.Obligations = append(why.Obligations, obligation{o.Type, o.Parameters})
		}
		why.Metadata = v.Metadata
	}
	return answer{d.Allowed, why}
}

// metadata says where the API is (AuthZEN section 9): under the host by which it was asked
// for, because Postern knows of no other. So it is for whoever asked alone, and a host
// that is none is not repeated.
func metadata(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if !isHost(r.Host) {
		say(w, http.StatusBadRequest, "the host is no name or address with a port")
		return
	}
	base := "http://" + r.Host
	if r.TLS != nil {
		base = "https://" + r.Host
	}
	body, err := json.Marshal(map[string]string{
		"policy_decision_point":       base,
		"access_evaluation_endpoint":  base + EvaluationPath,
		"access_evaluations_endpoint": base + EvaluationsPath,
	})
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

// isHost reports whether a text is a DNS name or an IP address, with a port or without.
func isHost(s string) bool {
	u, err := url.Parse("//" + s)
	if err != nil || u.Host != s || u.Hostname() == "" || strings.HasSuffix(s, ":") {
		return false
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return true
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(u.Hostname(), "."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return len(s) <= 255
}
