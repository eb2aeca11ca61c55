package rego

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/postern-auth/postern/policy"
)

// headers are the header fields as an object, values of one name joined by ","
// in their order (RFC 9110 section 5.3), without those that carry credentials.
type headers policy.Input

func (h *headers) tag() byte { return tagObject }

func (h *headers) appendKey(r *reader) {
	// Marked one by one instead of counted first, because some are hidden.
	for i := range h.Attributes.Headers {
		if name := h.Attributes.Headers[i].Name; !r.view.hidden[name] {
			r.appendText(tagText, name)
			h.appendValue(r, name, h.Attributes.Headers[i].Value)
		}
	}
	r.appendTag(tagAbsent)
}

func (h *headers) appendValue(r *reader, name, value string) {
	if r.view.secret[name] {
		r.appendDigest([]byte(value))
		return
	}
	r.appendText(tagText, h.visible(name, value))
}

func (h *headers) at(r *reader, name string) value {
	if r.view.hidden[name] {
		return value{}
	}
	first, n := h.Attributes.Headers.Get(name)
	if n == 0 {
		return value{}
	}
	v := text(h.visible(name, first))
	if n > 1 {
		v.text = h.joined(name)
	}
	if r.view.secret[name] {
		v.kind = kindSecret
	}
	return v
}

func (h *headers) joined(name string) string {
	var values []string
	for _, f := range h.Attributes.Headers {
		if f.Name == name {
			values = append(values, h.visible(name, f.Value))
		}
	}
	return strings.Join(values, ",")
}

// visible cuts a credential out of the fields that repeat the request target.
func (h *headers) visible(name, value string) string {
	switch name {
	case ":path", "referer", "x-envoy-original-path", "x-forwarded-uri", "x-original-uri", "x-original-url":
		return withoutCredential((*policy.Input)(h), value)
	}
	return value
}

func (h *headers) term(r *reader) *ast.Term {
	items := make([][2]*ast.Term, 0, len(h.Attributes.Headers))
	seen := make(map[string]int, len(h.Attributes.Headers))
	for _, f := range h.Attributes.Headers {
		if r.view.hidden[f.Name] {
			continue
		}
		value := h.visible(f.Name, f.Value)
		if i, again := seen[f.Name]; again {
			before := string(items[i][1].Value.(ast.String))
			items[i][1] = r.textTerm(before + "," + value)
			continue
		}
		seen[f.Name] = len(items)
		items = append(items, ast.Item(r.textTerm(f.Name), r.textTerm(value)))
	}
	return ast.ObjectTerm(items...)
}

// segments are the parts of the canonical path; [""] for "/".
type segments policy.Request

func (s *segments) tag() byte                { return tagArray }
func (s *segments) appendKey(r *reader)      { r.appendText(tagText, s.Path) }
func (s *segments) split() []string          { return strings.Split(strings.TrimPrefix(s.Path, "/"), "/") }
func (s *segments) term(r *reader) *ast.Term { return r.listTerm(s.split()) }

func (s *segments) at(_ *reader, step string) value {
	i, ok := position(step, 1+strings.Count(s.Path, "/"))
	if !ok {
		return value{}
	}
	rest, found := strings.TrimPrefix(s.Path, "/"), true
	var part string
	for ; i >= 0; i-- {
		if !found {
			return value{}
		}
		part, rest, found = strings.Cut(rest, "/")
	}
	return text(part)
}

// query is the query as an object of lists. One that url.ParseQuery cannot read
// is refused: whoever skips the part that is broken reads another query than the
// upstream.
type query policy.Input

func (q *query) tag() byte                { return tagObject }
func (q *query) raw() string              { return withoutCredential((*policy.Input)(q), q.Request.Query) }
func (q *query) appendKey(r *reader)      { r.appendText(tagText, q.raw()) }
func (q *query) at(*reader, string) value { return specially(q) }
func (q *query) term(r *reader) *ast.Term { return formTerm(r, q.raw()) }

func formTerm(r *reader, form string) *ast.Term {
	values, err := url.ParseQuery(form)
	if err != nil {
		r.fail(errUnreadable)
	}
	return objectTerm(r, values, r.listTerm)
}

func unescaped(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// actors are those who act for the principal.
type actors policy.Principal

func (a *actors) tag() byte { return tagArray }

func (a *actors) appendKey(r *reader) {
	r.appendCount(tagArray, len(a.Actors))
	for i := range a.Actors {
		r.appendText(tagText, a.Actors[i].ID)
		r.appendText(tagText, string(a.Actors[i].Kind))
	}
}

func (a *actors) at(*reader, string) value { return specially(a) }

func (a *actors) term(r *reader) *ast.Term {
	terms := make([]*ast.Term, len(a.Actors))
	for i, actor := range a.Actors {
		terms[i] = ast.ObjectTerm(
			ast.Item(ast.InternedTerm("id"), r.textTerm(actor.ID)),
			ast.Item(ast.InternedTerm("kind"), r.textTerm(string(actor.Kind))),
		)
	}
	return ast.NewTerm(ast.NewArray(terms...))
}

// covering stands for a part of a special value by the whole of it: nobody knows its type
// without the work.
type covering struct{ special }

func (covering) tag() byte { return tagUnknown }

// tools are what the request calls. Arguments may hold passwords, so that keys hold their
// digest.
type tools policy.Target

func (t *tools) tag() byte { return tagArray }

func (t *tools) appendKey(r *reader) {
	r.appendCount(tagArray, len(t.Tools))
	for i := range t.Tools {
		call := &t.Tools[i]
		r.appendText(tagText, call.Name)
		r.appendText(tagText, call.Schema)
		if call.Arguments == nil {
			r.appendTag(tagAbsent)
			continue
		}
		from := len(r.buf)
		r.appendTree(call.Arguments, maxDocumentDepth)
		sum := sha256.Sum256(r.buf[from:])
		r.buf = append(append(r.buf[:from], tagDigest), sum[:]...)
	}
}

func (t *tools) at(*reader, string) value { return specially(covering{t}) }

func (t *tools) term(r *reader) *ast.Term {
	terms := make([]*ast.Term, len(t.Tools))
	for i := range t.Tools {
		call := &t.Tools[i]
		items := [][2]*ast.Term{ast.Item(ast.InternedTerm("name"), r.textTerm(call.Name))}
		if call.Arguments != nil {
			items = append(items, ast.Item(ast.StringTerm("arguments"), r.treeTerm(call.Arguments, maxDocumentDepth)))
		}
		if call.Schema != "" {
			items = append(items, ast.Item(ast.StringTerm("schema"), r.textTerm(call.Schema)))
		}
		terms[i] = ast.ObjectTerm(items...)
	}
	return ast.NewTerm(ast.NewArray(terms...))
}

// resources are the things that the request names.
type resources policy.Target

func (t *resources) tag() byte { return tagArray }

func (t *resources) appendKey(r *reader) {
	r.appendCount(tagArray, len(t.Resources))
	for i := range t.Resources {
		named := &t.Resources[i]
		for _, s := range [...]string{named.Type, named.Tenant, named.ID, named.From} {
			r.appendText(tagText, s)
		}
	}
}

func (t *resources) at(*reader, string) value { return specially(covering{t}) }

func (t *resources) term(r *reader) *ast.Term {
	terms := make([]*ast.Term, len(t.Resources))
	for i := range t.Resources {
		named := &t.Resources[i]
		terms[i] = ast.ObjectTerm(
			ast.Item(ast.InternedTerm("type"), r.textTerm(named.Type)),
			ast.Item(ast.StringTerm("tenant"), r.textTerm(named.Tenant)),
			ast.Item(ast.InternedTerm("id"), r.textTerm(named.ID)),
			ast.Item(ast.StringTerm("from"), r.textTerm(named.From)),
		)
	}
	return ast.NewTerm(ast.NewArray(terms...))
}

// rawBody is the body as text; absent if none was forwarded. Bodies may hold
// passwords, so that keys hold their digest.
type rawBody policy.Attributes

func (b *rawBody) tag() byte {
	if len(b.Body) == 0 {
		return tagAbsent
	}
	return tagText
}

func (b *rawBody) appendKey(r *reader) {
	if len(b.Body) > r.view.maxValue {
		r.fail(errTooLarge)
	}
	r.appendDigest(b.Body)
}

func (b *rawBody) at(*reader, string) value { return value{} }

func (b *rawBody) term(r *reader) *ast.Term {
	if len(b.Body) == 0 {
		return nil
	}
	return r.textTerm(string(b.Body))
}

// body is the body as its content type says: JSON, a form, a form of parts or, where
// there is a descriptor set, the message of a gRPC call.
//
// It is null where there is nothing to read: no body, a part of one
// (truncated_body is true then), and a body of another type or of none. So null
// does not mean that there is no body, which only the absence of
// attributes.request.http.body does: a rule that denies by what a body holds must
// also ask that parsed_body is an object. What claims to be of a type that is read
// and cannot be read, or has a content type that cannot be, is refused as
// request_invalid.
type body policy.Attributes

// maxBody bounds the body that is parsed for a policy.
const maxBody = 1 << 20

func (b *body) tag() byte                { return tagUnknown }
func (b *body) at(*reader, string) value { return specially(b) }

func (b *body) appendKey(r *reader) {
	if len(b.Body) > maxBody {
		r.fail(errTooLarge)
	}
	r.appendKey(boolean(isTruncated((*policy.Attributes)(b))))
	kind, n := b.Headers.Get("content-type")
	r.appendInt(int64(n))
	r.appendText(tagText, kind)
	r.appendDigest(b.Body)
	if r.view.rpcs != nil {
		r.appendText(tagText, b.Path) // which names the method
	}
}

func (b *body) term(r *reader) *ast.Term {
	kind, n := b.Headers.Get("content-type")
	switch {
	case len(b.Body) > maxBody:
		r.fail(errTooLarge)
	case n > 1:
		r.fail(errUnreadable)
	case len(b.Body) == 0 || isTruncated((*policy.Attributes)(b)):
	default:
		return b.parsed(r, kind)
	}
	return ast.NullTerm()
}

func (b *body) parsed(r *reader, kind string) *ast.Term {
	mediaType, params, err := parseMediaType(kind)
	switch {
	case err != nil:
		r.fail(errUnreadable)
	case isJSON(mediaType):
		v, err := decodeJSON(b.Body, maxDocumentDepth)
		if err != nil {
			r.fail(errUnreadable)
		}
		return r.treeTerm(v, maxDocumentDepth+1)
	case mediaType == "application/x-www-form-urlencoded":
		return formTerm(r, string(b.Body))
	case mediaType == "multipart/form-data":
		return b.parts(r, params["boundary"])
	case isGRPC(mediaType) && r.view.rpcs != nil:
		v, err := r.view.rpcs.request(b.Path, b.Body)
		if err != nil {
			r.fail(errUnreadable)
		}
		return r.treeTerm(v, maxDocumentDepth+1)
	}
	return ast.NullTerm()
}

// parseMediaType reads a content type; "" is none. Broken parameters are ignored as
// servers do, which leaves the type clear.
func parseMediaType(kind string) (mediaType string, params map[string]string, err error) {
	if kind == "" {
		return "", nil, nil
	}
	mediaType, params, err = mime.ParseMediaType(kind)
	if errors.Is(err, mime.ErrInvalidMediaParameter) {
		err = nil
	}
	return mediaType, params, err
}

// isJSON accepts what servers read as JSON: application/json, its relatives such as
// application/json-seq, types that end in "+json" (RFC 6839 section 3.1), and
// text/json. A relative that is not one JSON text is unreadable, not null.
func isJSON(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/json") || strings.HasSuffix(mediaType, "+json") || mediaType == "text/json"
}

// parts reads multipart/form-data (RFC 7578) as an object of lists; parts that
// are JSON are read as such.
func (b *body) parts(r *reader, boundary string) *ast.Term {
	if boundary == "" {
		r.fail(errUnreadable)
		return ast.NullTerm()
	}
	form := map[string]any{}
	for parts := multipart.NewReader(bytes.NewReader(b.Body), boundary); ; {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return r.treeTerm(form, maxDocumentDepth+1)
		}
		if err != nil {
			r.fail(errUnreadable)
			return ast.NullTerm()
		}
		v, err := readPart(part)
		if err != nil {
			r.fail(errUnreadable)
		}
		if name := part.FormName(); name != "" {
			values, _ := form[name].([]any)
			form[name] = append(values, v)
		}
	}
}

func readPart(part *multipart.Part) (any, error) {
	mediaType, _, err := parseMediaType(part.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(part) // no longer than the body
	if err != nil || !isJSON(mediaType) {
		return string(content), err
	}
	return decodeJSON(content, maxDocumentDepth-2)
}

// isTruncated reports that the body is known to be longer than what was
// forwarded of it.
func isTruncated(a *policy.Attributes) bool {
	if a.BodyTruncated || len(a.Body) == 0 {
		return a.BodyTruncated
	}
	if kind, _ := a.Headers.Get("content-type"); strings.HasPrefix(kind, "application/grpc") && isCutShort(a.Body) {
		return true
	}
	declared, _ := a.Headers.Get("content-length")
	n, err := strconv.ParseInt(declared, 10, 64)
	return a.Size > int64(len(a.Body)) || err == nil && n > int64(len(a.Body))
}
