package door

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/postern-auth/postern/policy"
)

// StatusProfile says which HTTP statuses refused API keys get. Empty means
// StatusStandard.
type StatusProfile string

// The profiles.
const (
	// StatusStandard answers 401 to every credential that proves nothing (RFC
	// 9110 section 15.5.2, RFC 6750 section 3.1).
	StatusStandard StatusProfile = "standard"
	// StatusLegacy answers 403 "Invalid API key" or "API key expired" to a bad
	// key and 401 "API key required" to none, for clients written against such
	// an API.
	StatusLegacy StatusProfile = "legacy"
)

// Values lists the values that configuration may use.
func (StatusProfile) Values() []string {
	return []string{string(StatusStandard), string(StatusLegacy)}
}

// Refusals renders denies. The zero value is the standard profile.
type Refusals struct {
	// StatusProfile chooses the statuses; empty means StatusStandard.
	StatusProfile StatusProfile
	// KeyHeaders are the lower-case header fields in which API keys come. The
	// legacy profile speaks of keys only to requests that have one of them;
	// empty means x-api-key.
	KeyHeaders []string
}

// Denial is a deny as the end client sees it. Nothing in it comes from the
// request.
type Denial struct {
	// Status is the HTTP status, at least 300.
	Status int
	// Code is the status of gRPC callers, never OK.
	Code codes.Code
	// Message is one sentence for people.
	Message string
	// Headers are the header fields, content-type included; a name that occurs
	// again is a further field, not another value for the first.
	Headers []policy.Header
	// Body is the body; empty for HEAD.
	Body string
}

// Language is how a caller wants to be told.
type Language uint8

// The languages.
const (
	LanguageJSON Language = iota
	LanguageText
	LanguageGRPC
	// LanguageNone is for HEAD, whose answer has no body.
	LanguageNone
)

// LanguageOf returns the language of the caller: gRPC where the request is gRPC
// (also gRPC-Web), text where Accept prefers it to JSON, and JSON otherwise.
func LanguageOf(a *policy.Attributes) Language {
	if a.Method == http.MethodHead {
		return LanguageNone
	}
	if t, _ := a.Headers.Get("content-type"); strings.HasPrefix(t, "application/grpc") {
		return LanguageGRPC
	}
	if accept, n := a.Headers.Get("accept"); n == 1 && prefersText(accept) {
		return LanguageText
	}
	return LanguageJSON
}

// Render renders the deny d of the request a.
func (r *Refusals) Render(d *policy.Decision, a *policy.Attributes) Denial {
	den := Denial{Status: status(d), Message: d.Message}
	if den.Message == "" {
		den.Message = d.Reason.Message()
	}
	if r.StatusProfile == StatusLegacy {
		r.legacy(&den, d.Reason, a)
	}
	den.Message = strings.ToValidUTF8(den.Message, "\uFFFD")
	den.Code = code(den.Status, d.Reason)
	den.speak(LanguageOf(a), d)
	return den
}

// legacy overrides status and message where a key was refused.
func (r *Refusals) legacy(den *Denial, reason policy.Reason, a *policy.Attributes) {
	if reason == policy.ReasonCredentialMissing {
		den.Message = "API key required"
		return
	}
	if den.Status != http.StatusUnauthorized || !r.bringsKey(a) {
		return
	}
	switch reason {
	case policy.ReasonExpired:
		den.Status, den.Message = http.StatusForbidden, "API key expired"
	case policy.ReasonCredentialUnknown, policy.ReasonCredentialMalformed, policy.ReasonRevoked,
		policy.ReasonRotated, policy.ReasonDisabled, policy.ReasonNotYetValid:
		den.Status, den.Message = http.StatusForbidden, "Invalid API key"
	}
}

func (r *Refusals) bringsKey(a *policy.Attributes) bool {
	names := r.KeyHeaders
	if len(names) == 0 {
		names = []string{"x-api-key"}
	}
	return slices.ContainsFunc(names, func(name string) bool {
		_, n := a.Headers.Get(name)
		return n > 0
	})
}

// status returns the decision's status if a deny can have it: a policy may
// redirect to a login page (302) or hide a resource (404), but not turn a deny
// into a success.
func status(d *policy.Decision) int {
	switch own := d.Reason.Status(); {
	case refuses(d.Status):
		return d.Status
	case refuses(own):
		return own
	}
	return http.StatusForbidden
}

// refuses reports whether a status keeps a client from what it asked for. 304 has it
// look at its own copy (RFC 9110 section 15.4.5).
func refuses(status int) bool {
	return status >= 300 && status <= 599 && status != http.StatusNotModified
}

// code returns the gRPC code of a deny. 401 is always UNAUTHENTICATED and 403
// always PERMISSION_DENIED; a status that has no code of its own gets the one of
// the reason.
func code(status int, reason policy.Reason) codes.Code {
	for _, s := range [...]int{status, reason.Status()} {
		switch s {
		case http.StatusBadRequest:
			return codes.InvalidArgument
		case http.StatusUnauthorized:
			return codes.Unauthenticated
		case http.StatusForbidden:
			return codes.PermissionDenied
		case http.StatusTooManyRequests:
			return codes.ResourceExhausted
		case http.StatusServiceUnavailable:
			return codes.Unavailable
		}
	}
	return codes.PermissionDenied
}

// errorWords are the `error` of a JSON body: the gRPC codes in lower case.
var errorWords = map[codes.Code]string{
	codes.InvalidArgument:   "invalid_argument",
	codes.Unauthenticated:   "unauthenticated",
	codes.PermissionDenied:  "permission_denied",
	codes.ResourceExhausted: "resource_exhausted",
	codes.Unavailable:       "unavailable",
}

// speak fills headers and body.
func (den *Denial) speak(l Language, d *policy.Decision) {
	var contentType string
	switch own := policyBody(d); {
	case l == LanguageNone:
	case l == LanguageGRPC:
		den.Body = den.Message
	case own != "":
		den.Body, contentType = own, bodyType(own)
	case l == LanguageText:
		den.Body, contentType = den.Message+"\n", textPlain
	default:
		den.Body, contentType = den.json(d), applicationJSON
	}
	den.header(d.Client, "content-type", contentType)
	den.header(d.Client, "cache-control", "no-store")
	for _, c := range d.Challenges {
		den.header(nil, "www-authenticate", c)
	}
	if d.RetryAfter > 0 {
		den.header(d.Client, "retry-after", strconv.FormatInt(RetrySeconds(d.RetryAfter), 10))
	}
	if l == LanguageGRPC {
		den.header(nil, "grpc-status", strconv.Itoa(int(den.Code)))
	}
	for _, h := range d.Client {
		if !strings.HasPrefix(h.Name, "grpc-") && (h.Name != "content-type" || contentType != "") {
			den.header(nil, h.Name, h.Value)
		}
	}
}

const (
	applicationJSON = "application/json"
	textPlain       = "text/plain; charset=utf-8"
)

// header adds a field unless it is empty, cannot be sent, or is among those that
// the policy sets itself.
func (den *Denial) header(own []policy.Header, name, value string) {
	h := policy.Header{Name: name, Value: value}
	if value == "" || !Sendable(h) {
		return
	}
	if _, n := policy.Headers(own).Get(name); n == 0 {
		den.Headers = append(den.Headers, h)
	}
}

// json is the default body. The reason is the public one: what would tell an
// attacker which part of a guess was right is in the decision log only.
func (den *Denial) json(d *policy.Decision) string {
	id := d.ID
	if d.Reason.Status() == http.StatusUnauthorized {
		id = "" // the answers to two guesses must not differ in a single byte
	}
	var action string
	var proposal json.RawMessage
	if p := d.Proposal; p != nil {
		action, proposal = p.Action, json.RawMessage(p.Text)
	}
	body, err := json.Marshal(struct {
		Error      string `json:"error"`
		Reason     string `json:"reason"`
		Message    string `json:"message"`
		DecisionID string `json:"decision_id,omitempty"`
		// Action and Proposal are what somebody has to approve.
		Action   string          `json:"action,omitempty"`
		Proposal json.RawMessage `json:"proposal,omitempty"`
	}{errorWords[den.Code], d.Reason.Public(), den.Message, id, action, proposal})
	if err != nil {
		return "{}" // four strings always marshal
	}
	return string(body) + "\n"
}

func policyBody(d *policy.Decision) string {
	if d.Verdict == nil {
		return ""
	}
	return strings.ToValidUTF8(d.Verdict.Body, "\uFFFD")
}

// bodyType is the type of a body that a policy wrote without saying its type.
// It is never HTML: a policy that wants that sets content-type itself.
func bodyType(body string) string {
	if json.Valid([]byte(body)) {
		return applicationJSON
	}
	return textPlain
}

// RetrySeconds rounds up to whole seconds, as Retry-After needs them (RFC 9110
// section 10.2.3).
func RetrySeconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

// maxAccept bounds the Accept field that is worth reading; a longer one gets JSON.
const maxAccept = 1024

// prefersText reports whether the Accept field gives text/plain a higher quality
// than application/json (RFC 9110 section 12.5.1).
func prefersText(accept string) bool {
	if len(accept) > maxAccept {
		return false
	}
	return quality(accept, "text", "plain") > quality(accept, "application", "json")
}

// quality returns what the most specific range of the field that matches says;
// 0 if none matches.
func quality(accept, kind, subtype string) float64 {
	best, q := -1, 0.0
	for r := range strings.SplitSeq(accept, ",") {
		name, parameters, _ := strings.Cut(r, ";")
		rank := slices.Index([]string{"*/*", kind + "/*", kind + "/" + subtype}, strings.ToLower(strings.TrimSpace(name)))
		if rank > best {
			best, q = rank, weight(parameters)
		}
	}
	return q
}

func weight(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") {
			q, err := strconv.ParseFloat(value, 64)
			if err != nil || !(q >= 0 && q <= 1) {
				return 0
			}
			return q
		}
	}
	return 1
}
