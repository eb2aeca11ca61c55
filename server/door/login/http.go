package login

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/password"
)

const (
	// maxBody is the longest body in bytes: the longest password in percent escapes,
	// and a name.
	maxBody = 4 << 10
	// maxText is the longest name or tenant, in bytes.
	maxText = 256
)

// attributes are the request as a gateway would have brought it.
func attributes(r *http.Request) *policy.Attributes {
	a := &policy.Attributes{
		Door: "login", Method: r.Method, Scheme: "http", Host: r.Host, Path: r.RequestURI, Protocol: r.Proto, Size: r.ContentLength,
	}
	if r.TLS != nil {
		a.Scheme = "https"
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		a.Source.Address = from
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		for _, value := range r.Header[name] {
			a.Headers = append(a.Headers, policy.Header{Name: door.Lower(name), Value: value})
		}
	}
	return a
}

// form is what a login sends.
type form struct {
	username, tenant string
	password         policy.Secret
}

// readForm reads the body strictly: one of two types, every field once, and no others.
func readForm(r *http.Request) (form, *reply) {
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, hasCharset := parameters["charset"]
	if err != nil || r.Header.Get("Content-Encoding") != "" ||
		len(parameters) > 1 || len(parameters) == 1 && !(hasCharset && strings.EqualFold(charset, "utf-8")) {
		return form{}, &unsupportedType
	}
	var read func([]byte) (map[string]string, bool)
	switch kind {
	case "application/x-www-form-urlencoded":
		read = readURLEncoded
	case "application/json":
		read = readJSON
	default:
		return form{}, &unsupportedType
	}
	body, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return form{}, &tooLarge
	case err != nil:
		return form{}, &badRequest
	}
	fields, ok := read(body)
	f := form{username: fields["username"], tenant: fields["tenant"], password: policy.NewSecret(fields["password"])}
	if !ok || f.username == "" || fields["password"] == "" || len(f.username) > maxText || len(f.tenant) > maxText ||
		len(fields["password"]) > password.MaxLen {
		return form{}, &badRequest
	}
	return f, nil
}

func readURLEncoded(body []byte) (map[string]string, bool) {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, false
	}
	fields := map[string]string{}
	for name, all := range values {
		if len(all) != 1 || !isField(name) || !utf8.ValidString(all[0]) {
			return nil, false
		}
		fields[name] = all[0]
	}
	return fields, true
}

func readJSON(body []byte) (map[string]string, bool) {
	v, err := jose.ParseJSON(body, jose.Limits{Bytes: maxBody, Depth: 1, Members: 3})
	if err != nil || v.Kind() != jose.Object {
		return nil, false
	}
	fields := map[string]string{}
	for name, member := range v.Members() {
		text, ok := member.Text()
		if !ok || !isField(name) {
			return nil, false
		}
		fields[name] = text
	}
	return fields, true
}

func isField(name string) bool { return name == "username" || name == "password" || name == "tenant" }

// reply is an answer. Replies are values: with copies.
type reply struct {
	status int
	fields []policy.Header
	body   string
}

func (r reply) with(name, value string) reply {
	r.fields = append(slices.Clip(r.fields), policy.Header{Name: name, Value: value})
	return r
}

// write sends the reply. Nothing may keep it, frame it or guess another type.
func (r reply) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.body != "" {
		h.Set("Content-Type", "application/json")
	}
	for _, f := range r.fields {
		h.Set(f.Name, f.Value)
	}
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, r.body) // a client that is gone needs no answer
}

func jsonReply(status int, body any) reply {
	text, err := json.Marshal(body)
	if err != nil {
		return reply{status: http.StatusInternalServerError} // texts and times always marshal
	}
	return reply{status: status, body: string(text) + "\n"}
}

// refusal is a reply that says no, in the form of all doors.
func refusal(status int, word, reason, message string) reply {
	return jsonReply(status, struct {
		Error   string `json:"error"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}{word, reason, message})
}

var (
	badRequest       = refusal(http.StatusBadRequest, "invalid_argument", "request_invalid", "Send username and password, and perhaps tenant, once each, in the body.")
	notFound         = refusal(http.StatusNotFound, "not_found", "not_found", "There is nothing here.")
	methodNotAllowed = refusal(http.StatusMethodNotAllowed, "invalid_argument", "method", "This method is not served here.")
	tooLarge         = refusal(http.StatusRequestEntityTooLarge, "invalid_argument", "request_too_large", "The request is too large.")
	unsupportedType  = refusal(http.StatusUnsupportedMediaType, "invalid_argument", "content_type", "Send application/x-www-form-urlencoded or application/json.")
	loginFailed      = refusal(http.StatusUnauthorized, "unauthenticated", "login_failed", "Login failed.").with("www-authenticate", challenge)
	unavailable      = denied(policy.ReasonUnavailable).with("retry-after", "1")
)

// challenge names no scheme of HTTP's own, so that no browser asks for a password in a
// window of its own; a 401 must have one (RFC 9110 section 15.5.2).
const challenge = `Session realm="postern"`

// denied is the reply to a reason.
func denied(reason policy.Reason) reply {
	word := map[int]string{
		http.StatusBadRequest: "invalid_argument", http.StatusUnauthorized: "unauthenticated", http.StatusForbidden: "permission_denied",
		http.StatusTooManyRequests: "resource_exhausted", http.StatusServiceUnavailable: "unavailable",
	}[reason.Status()]
	r := refusal(reason.Status(), word, reason.Public(), reason.Message())
	if r.status == http.StatusUnauthorized {
		r = r.with("www-authenticate", challenge)
	}
	return r
}

// tooMany is the reply to a try too many.
func tooMany(wait time.Duration) reply {
	return denied(policy.ReasonRateLimited).with("retry-after", strconv.FormatInt(door.RetrySeconds(wait), 10))
}
