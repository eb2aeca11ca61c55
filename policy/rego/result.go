package rego

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/postern-auth/postern/policy"
)

// read turns what the policy said into a Verdict.
//
// A boolean is the answer. An object is the answer and more: the keys of the
// OPA-Envoy plugin, and ours. It allows only if `allow` is the boolean true and
// `deny` is not there, false or empty; a deny that is there always wins. Other keys
// are the policy's own and are not looked at. A key of ours that holds anything
// but what belongs there makes the whole result bad, because a header that could
// not be read may have been the one that matters, and a bad result denies.
func (s *Snapshot) read(result ast.Value) *policy.Verdict {
	v := &policy.Verdict{Revision: s.Revision}
	switch result := result.(type) {
	case nil:
		v.Reason = policy.ReasonPolicyUndefined
	case ast.Boolean:
		v.Allow = bool(result)
		v.Reason = policy.ReasonPolicyDenied
	case ast.Object:
		o := output{object: result}
		o.fill(v, s.config.OPAEnvoy)
		if o.bad {
			v = &policy.Verdict{Revision: s.Revision, Reason: policy.ReasonPolicyResult}
		}
	default:
		v.Reason = policy.ReasonPolicyResult
	}
	if v.Allow {
		v.Reason = policy.ReasonAllowed
	}
	return v
}

// Bounds of a result, in bytes but for the list. A policy that exceeds them is
// defective.
const (
	maxResultList    = 256
	maxResultText    = 8 << 10
	maxResultMessage = 1 << 10
	maxResultBody    = 64 << 10
	// maxResult bounds about the memory of all that is kept of a result.
	maxResult = 256 << 10
)

// memberNames are the names that Postern looks up in objects of a policy, as terms
// that are made once.
var memberNames = func() map[string]*ast.Term {
	terms := map[string]*ast.Term{}
	for _, name := range []string{
		"allow", "allowed", "deny", "message", "reason", "http_status", "body", "headers",
		"response_headers_to_add", "request_headers_to_remove", "query_parameters_to_set",
		"query_parameters_to_remove", "dynamic_metadata", "missing_scopes", "missing_permissions",
		"obligations", "type", "parameters",
		"roles", "permissions", "scopes", "method", "path", "folded", "action", "required_permission", "required_scopes",
		"routes",
	} {
		terms[name] = ast.StringTerm(name)
	}
	return terms
}()

// member returns a member of an object; nil if there is none.
func member(object ast.Object, name string) ast.Value {
	key := memberNames[name]
	if key == nil { // works, but allocates: add the name above
		key = ast.StringTerm(name)
	}
	if t := object.Get(key); t != nil {
		return t.Value
	}
	return nil
}

// output reads the keys of one result and notes whether any is not what it
// should be.
type output struct {
	object ast.Object
	bad    bool
	// size is about the memory of all that was kept.
	size int
}

func (o *output) get(key string) ast.Value { return member(o.object, key) }

func (o *output) fill(v *policy.Verdict, envoy bool) {
	v.Allow = o.allows(envoy)
	v.Reason = policy.ReasonPolicyDenied
	v.Message = o.text("message", maxResultMessage)
	v.RemoveHeaders = o.names("request_headers_to_remove")
	v.SetQuery = o.query()
	v.RemoveQuery = o.texts("query_parameters_to_remove")
	v.Metadata = o.metadata()
	v.Obligations = o.obligations()
	v.MissingScopes = o.scopes()
	v.MissingPermissions = o.texts("missing_permissions")
	status, body, reason := o.status(), o.string(o.get("body"), maxResultBody), o.text("reason", maxResultText)
	// As for the plugin, `headers` are for the upstream on an allow and for the
	// caller on a deny.
	main, response := o.headers("headers"), o.headers("response_headers_to_add")
	if v.Allow {
		v.UpstreamHeaders, v.ClientHeaders = main, response
		return
	}
	v.ClientHeaders = append(main, response...)
	v.Body = body
	v.Reason = o.reason(reason, v)
	// nginx takes any 2xx for an allow, and a browser shows its own copy on a 304.
	if v.Status = status; status != 0 && (status < 300 || status == http.StatusNotModified || http.StatusText(status) == "") {
		o.bad = true
	}
}

// allows reads the answer: `allow`, or the plugin's `allowed` where that counts.
// Two of them must agree.
func (o *output) allows(envoy bool) bool {
	yes, found := o.flag("allow")
	if allowed, too := o.flag("allowed"); too && (envoy || found) {
		yes, found = allowed && (yes || !found), true
	}
	if !found {
		o.bad = true
	}
	return !o.denies() && yes
}

func (o *output) flag(key string) (is, found bool) {
	switch v := o.get(key).(type) {
	case nil:
		return false, false
	case ast.Boolean:
		return bool(v), true
	}
	o.bad = true
	return false, true
}

// denies reads `deny`: a boolean, a message, or a collection of messages.
func (o *output) denies() bool {
	switch v := o.get("deny").(type) {
	case nil:
		return false
	case ast.Boolean:
		return bool(v)
	case ast.String:
		return v != ""
	case *ast.Array:
		return v.Len() > 0
	case ast.Set:
		return v.Len() > 0
	case ast.Object:
		return v.Len() > 0
	case ast.Null:
		return false
	}
	o.bad = true
	return true
}

// policyReasons are the reasons that a policy may give: they are about the caller
// and the request, not about how Postern is doing.
var policyReasons = []policy.Reason{
	policy.ReasonPolicyDenied, policy.ReasonScope, policy.ReasonPermission,
	policy.ReasonCredentialMissing, policy.ReasonMethodNotAccepted, policy.ReasonStepUp,
	policy.ReasonPlaintext, policy.ReasonTenant, policy.ReasonPrincipalKind, policy.ReasonAssurance,
	policy.ReasonNetwork, policy.ReasonRequestMethod, policy.ReasonPath, policy.ReasonHost,
	policy.ReasonTimeWindow, policy.ReasonResource, policy.ReasonRateLimited, policy.ReasonBudgetExhausted,
	policy.ReasonTool, policy.ReasonModel, policy.ReasonCategory,
	policy.ReasonDelegation, policy.ReasonConsent, policy.ReasonApproval, policy.ReasonAttestation,
}

// reason reads the policy's reason; one that is no code of ours is the policy's
// own note. What is missing speaks for itself.
func (o *output) reason(code string, v *policy.Verdict) policy.Reason {
	if r, ok := policy.ParseReason(code); ok && slices.Contains(policyReasons, r) {
		return r
	}
	switch {
	case len(v.MissingScopes) > 0:
		return policy.ReasonScope
	case len(v.MissingPermissions) > 0:
		return policy.ReasonPermission
	}
	return policy.ReasonPolicyDenied
}

func (o *output) status() int {
	switch v := o.get("http_status").(type) {
	case nil:
		return 0
	case ast.Number:
		if n, err := strconv.Atoi(string(v)); err == nil && n >= 100 && n <= 599 {
			return n
		}
	}
	o.bad = true
	return 0
}

// text reads a string of one line.
func (o *output) text(key string, limit int) string {
	s := o.string(o.get(key), limit)
	o.bad = o.bad || !isFieldValue(s)
	return s
}

// string reads a string; absent and null are empty.
func (o *output) string(v ast.Value, limit int) string {
	switch v := v.(type) {
	case nil, ast.Null:
		return ""
	case ast.String:
		if len(v) <= limit {
			return o.keep(string(v))
		}
	}
	o.bad = true
	return ""
}

// keep copies a text. It may be a piece of the request, all of which would stay in
// memory for as long as a cached verdict points into it.
func (o *output) keep(s string) string {
	if !o.grow(len(s)) {
		return ""
	}
	return strings.Clone(s)
}

func (o *output) grow(n int) bool {
	o.size += n
	o.bad = o.bad || o.size > maxResult
	return !o.bad
}

// each calls f with the elements of an array or set. Null is an empty one.
func (o *output) each(v ast.Value, f func(ast.Value)) {
	n := 0
	visit := func(t *ast.Term) {
		if n++; n <= maxResultList {
			f(t.Value)
		}
	}
	switch v := v.(type) {
	case nil, ast.Null:
	case *ast.Array:
		v.Foreach(visit)
	case ast.Set:
		v.Foreach(visit)
	default:
		o.bad = true
	}
	o.bad = o.bad || n > maxResultList
}

// members calls f with the members of an object, in the order of their names.
func (o *output) members(object ast.Object, f func(name string, v ast.Value)) {
	keys := object.Keys() // sorted
	if len(keys) > maxResultList {
		o.bad = true
		return
	}
	for _, key := range keys {
		f(o.string(key.Value, maxResultText), object.Get(key).Value)
	}
}

func (o *output) texts(key string) (all []string) {
	list := o.get(key)
	if list == nil {
		return nil
	}
	o.each(list, func(v ast.Value) {
		s := o.string(v, maxResultText)
		o.bad = o.bad || s == "" || !isFieldValue(s)
		all = append(all, s)
	})
	return all
}

// names reads header names, in lower case.
func (o *output) names(key string) []string {
	all := o.texts(key)
	for i, name := range all {
		all[i] = strings.ToLower(name)
		o.bad = o.bad || !isFieldName(name)
	}
	return all
}

// scopes reads scope tokens (RFC 6749 section 3.3), which end up in a challenge.
func (o *output) scopes() []string {
	all := o.texts("missing_scopes")
	for _, scope := range all {
		o.bad = o.bad || strings.ContainsFunc(scope, func(r rune) bool {
			return r <= ' ' || r == '"' || r == '\\' || r > '~'
		})
	}
	return all
}

// headers reads header fields as the plugin does: an object, or a list of them,
// whose values are texts or lists of texts.
func (o *output) headers(key string) (all []policy.Header) {
	fields := o.get(key)
	if fields == nil {
		return nil
	}
	add := func(name string, v ast.Value) {
		o.bad = o.bad || !isFieldName(name) || isFraming(name)
		o.values(v, func(s string) {
			all = append(all, policy.Header{Name: strings.ToLower(name), Value: s})
		})
	}
	if object, ok := fields.(ast.Object); ok {
		o.members(object, add)
	} else {
		o.each(fields, func(v ast.Value) {
			if object, ok := v.(ast.Object); ok {
				o.members(object, add)
				return
			}
			o.bad = true
		})
	}
	o.bad = o.bad || len(all) > maxResultList
	return all
}

func (o *output) values(v ast.Value, f func(string)) {
	one := func(v ast.Value) {
		_, ok := v.(ast.String)
		s := o.string(v, maxResultText)
		o.bad = o.bad || !ok || !isFieldValue(s)
		f(s)
	}
	switch v.(type) {
	case ast.String:
		one(v)
	case ast.Null:
		o.bad = true
	default:
		o.each(v, one)
	}
}

func (o *output) query() []policy.Header {
	switch object := o.get("query_parameters_to_set").(type) {
	case nil, ast.Null:
	case ast.Object:
		var all []policy.Header
		o.members(object, func(name string, v ast.Value) {
			o.bad = o.bad || name == "" || !isFieldValue(name)
			o.values(v, func(s string) { all = append(all, policy.Header{Name: name, Value: s}) })
		})
		return all
	default:
		o.bad = true
	}
	return nil
}

func (o *output) metadata() map[string]any {
	return o.json(o.get("dynamic_metadata"))
}

func (o *output) json(v ast.Value) map[string]any {
	switch v := v.(type) {
	case nil, ast.Null:
		return nil
	case ast.Object:
		if size(v, 4*maxResult) > 4*maxResult {
			break // a few terms can stand for gigabytes by standing in many places
		}
		if j, err := ast.JSON(v); err == nil {
			if object, ok := o.keepTree(j).(map[string]any); ok {
				return object
			}
		}
	}
	o.bad = true
	return nil
}

// keepTree copies the texts of a JSON value.
func (o *output) keepTree(j any) any {
	if !o.grow(valueCost) {
		return nil
	}
	switch j := j.(type) {
	case string:
		return o.keep(j)
	case json.Number:
		return json.Number(o.keep(string(j)))
	case []any:
		for i := range j {
			j[i] = o.keepTree(j[i])
		}
	case map[string]any:
		kept := make(map[string]any, len(j))
		for name, v := range j {
			kept[o.keep(name)] = o.keepTree(v)
		}
		return kept
	}
	return j
}

// obligations reads a list of {type, parameters}; a bare string is a type.
func (o *output) obligations() (all []policy.Obligation) {
	list := o.get("obligations")
	if list == nil {
		return nil
	}
	o.each(list, func(v ast.Value) {
		var ob policy.Obligation
		switch v := v.(type) {
		case ast.String:
			ob.Type = o.string(v, maxResultText)
		case ast.Object:
			inner := output{object: v, size: o.size}
			ob.Type, ob.Parameters = inner.text("type", maxResultText), inner.json(inner.get("parameters"))
			o.bad, o.size = o.bad || inner.bad, inner.size
		}
		o.bad = o.bad || ob.Type == "" || !isFieldValue(ob.Type)
		all = append(all, ob)
	})
	return all
}

// isFieldName accepts a token (RFC 9110 section 5.6.2).
func isFieldName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// isFieldValue refuses control characters, and with them a second header line
// (RFC 9110 section 5.5).
func isFieldValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// isFraming names the fields that say where a message ends and where it goes: a
// policy that sets one splits requests.
func isFraming(name string) bool {
	switch strings.ToLower(name) {
	case "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade":
		return true
	}
	return false
}
