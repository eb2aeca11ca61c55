package author

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Bounds of a draft. A compiler cannot be stopped, so a draft that takes too long keeps its
// place until it is done, and what it may hold is little: what makes a compiler slow is
// long.
const (
	maxDraftFiles = 16
	maxDraftBytes = 256 << 10
	maxDraftDepth = 128 // brackets in one another: parsers go down by recursion
	draftTimeout  = 5 * time.Second
	draftDecision = time.Second
)

// ErrBusy says that as many drafts as may are being tried.
var ErrBusy = errors.New("other drafts are being tried; try again in a while")

// Desk is where drafts are tried on a server that decides by another policy. It bounds how
// many are at a time; the policy in force, its caches and its places for evaluations are
// not touched.
type Desk struct{ places chan struct{} }

// NewDesk has places for n drafts at a time.
func NewDesk(n int) *Desk { return &Desk{make(chan struct{}, n)} }

// Draft is a policy to try and the question to it.
type Draft struct {
	// Files are its files by name.
	Files map[string]string
	// Config says how policies are read. Functions that reach out of the decision are
	// refused, whatever it allows.
	Config rego.Config
	// Input is what the draft is asked.
	Input *policy.Input
	// Outline is what the input was made of, if it is a recorded decision.
	Outline *Outline
}

// Trial is what became of a draft. It has Problems, or a Fault, or a Verdict.
type Trial struct {
	// Problems are what is wrong with it.
	Problems rego.Problems
	// Warnings are what loads but its author should look at.
	Warnings []rego.Problem
	// Verdict is its answer, and Fault what kept it from one.
	Verdict *policy.Verdict
	Fault   error
	// NotRecorded is what it can read and the Outline does not hold: input.request.query.
	NotRecorded []string
	// Compile and Decide are how long the two took.
	Compile, Decide time.Duration
}

// Try compiles a draft and asks it. The error is ErrBusy, or that of ctx or
// context.DeadlineExceeded for a draft that takes too long, which is let go on alone.
func (d *Desk) Try(ctx context.Context, draft *Draft) (*Trial, error) {
	if found := draft.problems(); len(found) > 0 {
		return &Trial{Problems: found}, nil
	}
	select {
	case d.places <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, draftTimeout)
	defer cancel()
	done := make(chan *Trial, 1)
	go func() {
		defer func() { <-d.places }()
		done <- draft.try(ctx)
	}()
	select {
	case t := <-done:
		return t, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// problems are those that are seen without a compiler.
func (d *Draft) problems() (found rego.Problems) {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		text := d.Files[name]
		size += len(name) + len(text)
		switch {
		case !fs.ValidPath(name) || name == "." || len(name) > 256:
			found = append(found, rego.Problem{Text: fmt.Sprintf("%.80q is no name of a file", name)})
		case nestedTooDeeply(text):
			found = append(found, rego.Problem{File: name, Text: fmt.Sprintf("has brackets in more than %d others", maxDraftDepth)})
		}
	}
	if len(d.Files) == 0 || len(d.Files) > maxDraftFiles {
		found = append(found, rego.Problem{Text: fmt.Sprintf("a draft has 1 to %d files", maxDraftFiles)})
	}
	if size > maxDraftBytes {
		found = append(found, rego.Problem{Text: fmt.Sprintf("the draft is longer than %d KiB", maxDraftBytes>>10)})
	}
	return found
}

// nestedTooDeeply counts brackets wherever they stand, in texts and comments as well: no
// policy for people has so many.
func nestedTooDeeply(text string) bool {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth = max(depth-1, 0)
		}
		if depth > maxDraftDepth {
			return true
		}
	}
	return false
}

func (d *Draft) try(ctx context.Context) (t *Trial) {
	t = &Trial{}
	defer func() {
		if thrown := recover(); thrown != nil {
			t.Verdict, t.Fault = nil, fmt.Errorf("a panic of type %T", thrown)
		}
	}()
	began := time.Now()
	s, err := d.compile(ctx)
	t.Compile = time.Since(began)
	if problems := (rego.Problems)(nil); errors.As(err, &problems) {
		t.Problems = problems
		return t
	} else if err != nil {
		t.Problems = rego.Problems{{Text: err.Error()}}
		return t
	}
	t.Warnings = s.Warnings
	if d.Outline != nil {
		t.NotRecorded = d.Outline.missing(s)
	}
	began = time.Now()
	t.Verdict, _, t.Fault = s.Decide(ctx, d.Input)
	t.Decide = time.Since(began)
	return t
}

func (d *Draft) compile(ctx context.Context) (*rego.Snapshot, error) {
	config := d.Config
	config.AllowBuiltins, config.AllowHosts, config.InsecureExposeCredentials, config.ProtoDescriptor = nil, nil, false, ""
	config.Timeout, config.MaxEvaluations, config.Cache.Size = draftDecision, 1, -1
	config.Limits = rego.Limits{Files: maxDraftFiles, Bytes: maxDraftBytes, Depth: 8}
	bundle, err := rego.LoadFS(folder(d.Files), config)
	if err != nil {
		return nil, err
	}
	now := time.Now
	if d.Outline != nil && !d.Outline.Time.IsZero() {
		now = standing(d.Outline.Time)
	}
	return rego.Compile(ctx, bundle, config, rego.WithClock(now))
}

// Outline is what a replica remembers of the request of a decision: no header fields, no
// query and no body.
type Outline struct {
	Time               time.Time
	Method, Host, Path string
	Client             netip.Addr // invalid if unknown
	Principal          *policy.Principal
	Peer               *policy.Peer
	Route              *policy.Route
}

// outlineKnown are the places of the input that an Outline holds.
var outlineKnown = places(`request.method request.host request.path request.segments request.folded request.client_ip
	target.http.method target.http.host target.http.path target.http.folded target.action parsed_path version
	principal peer route`)

// Input is the outline as a policy is asked about it.
func (o *Outline) Input() (*policy.Input, error) {
	q := &Question{Request: &Request{Method: o.Method, Host: o.Host, Path: o.Path}}
	if o.Client.IsValid() {
		q.Request.Source = o.Client.String()
	}
	in, err := q.recorded()
	if err != nil {
		return nil, err
	}
	in.Peer, in.Route, in.Principal = o.Peer, cmp.Or(o.Route, in.Route), cmp.Or(o.Principal, in.Principal)
	return in, nil
}

// missing are the places that a policy can read and the outline does not hold.
func (o *Outline) missing(s *rego.Snapshot) (all []string) {
	known := Record{known: outlineKnown}
	for _, path := range s.Analysis.Paths {
		if !known.holds(path, s.Hidden()) {
			all = append(all, path.String())
		}
	}
	if len(o.Path) >= loggedText {
		all = append(all, "the path beyond its first bytes")
	}
	return all
}

// written is a Question in a text of its own.
type written struct {
	Question `yaml:",inline"`
}

// Check implements strictyaml.Checker.
func (w *written) Check(report func(path, message, suggestion string)) {
	w.check(func(field, message, suggestion string) {
		if field == "name" {
			field, message = "", strings.Replace(message, "the case", "this", 1)
		}
		report(field, message, suggestion)
	})
}

// maxQuestion bounds a written question, in bytes.
const maxQuestion = 256 << 10

// ReadQuestion reads a request that nobody made, and who makes it, as JSON or YAML: a case
// of a table without its name and what is wanted. The error is strictyaml.Errors: all that
// is wrong, by line.
func ReadQuestion(name string, text []byte) (*Question, error) {
	w := &written{}
	if err := strictyaml.Decode(name, text, w, strictyaml.WithMaxSize(maxQuestion)); err != nil {
		return nil, err
	}
	return &w.Question, nil
}
