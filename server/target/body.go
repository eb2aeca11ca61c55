package target

import (
	"errors"
	"fmt"
	"math"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
)

// Bounds of a body. Its length is bounded by request.limits.max_body_bytes.
const (
	maxDepth   = 64
	maxMembers = 320 // logit_bias of OpenAI has up to 300; the search for names that stand twice takes their square
	maxTools   = 512
	maxName    = 256     // bytes of the name of a model or tool
	maxCount   = 1 << 31 // no model answers with as many tokens
)

// parse reads the body, once. It stays absent if the request has none and needs none.
func (x *reading) parse() error {
	if x.parsed {
		return nil
	}
	x.parsed = true
	a := x.attributes
	switch {
	case isTruncated(a):
		return invalid("the gateway forwarded a part of the body only")
	case len(a.Body) == 0 && x.needsBody():
		return invalid("there is no body, or the gateway did not forward it")
	case len(a.Body) == 0:
		return nil
	}
	if err := checkType(a); err != nil {
		return err
	}
	body, err := jose.ParseJSON(a.Body, jose.Limits{Bytes: len(a.Body), Depth: maxDepth, Members: maxMembers})
	switch {
	case errors.Is(err, jose.ErrTooLarge):
		return refused(policy.ReasonRequestTooLarge, "the body: "+err.Error())
	case err != nil:
		return invalid("the body: " + err.Error())
	}
	x.body = body
	return nil
}

// needsBody reports whether a request without a body says too little. Those of these
// methods have none, unless a field says that they do (RFC 9110 section 9.3).
func (x *reading) needsBody() bool {
	a := x.attributes
	length, n := a.Headers.Get("content-length")
	if _, chunked := a.Headers.Get("transfer-encoding"); n > 1 || n == 1 && length != "0" || chunked > 0 || a.Size > 0 {
		return true
	}
	switch x.request.Method {
	case "GET", "HEAD", "DELETE", "OPTIONS", "TRACE":
		return false
	}
	return n == 0 || x.job.reads != ""
}

// isTruncated reports that the body is not all that there is, or more.
func isTruncated(a *policy.Attributes) bool {
	if a.BodyTruncated || len(a.Body) == 0 {
		return a.BodyTruncated
	}
	declared, n := a.Headers.Get("content-length")
	return n > 1 || n == 1 && declared != strconv.Itoa(len(a.Body)) || a.Size > int64(len(a.Body))
}

// checkType refuses a body that the upstream may not read as JSON in UTF-8. None that
// says nothing about its type is refused: JSON is all that it could be taken for here.
func checkType(a *policy.Attributes) error {
	if coding, n := a.Headers.Get("content-encoding"); n > 1 || n == 1 && !strings.EqualFold(coding, "identity") {
		return invalid("the body is compressed")
	}
	kind, n := a.Headers.Get("content-type")
	if n == 0 {
		return nil
	}
	mediaType, parameters, err := mime.ParseMediaType(kind)
	charset, named := parameters["charset"]
	switch {
	case n > 1 || err != nil:
		return invalid("the content type cannot be read")
	case mediaType != "application/json" && !strings.HasSuffix(mediaType, "+json"):
		return invalid("the content type is not JSON")
	case named && !strings.EqualFold(charset, "utf-8"):
		return invalid("the body is not in UTF-8")
	}
	return nil
}

// isClean accepts UTF-8 without control characters.
func isClean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c >= 0x7f && c < 0xa0 })
}

// object is an object of which some members count. It keeps the first error.
type object struct {
	value jose.Value
	at    string
	err   error
}

// objectOf reads an object: no other member of it may look like one of those that
// count.
func objectOf(v jose.Value, at string, count names) *object {
	o := &object{value: v, at: at}
	if v.Kind() != jose.Object {
		o.fail("is not an object")
		return o
	}
	for name := range v.Members() {
		if known := count.mistaken(name); known != "" {
			o.fail("has a member that a forgiving server takes for " + known)
		}
	}
	return o
}

func (o *object) fail(what string) {
	if o.err == nil {
		o.err = invalid(o.at + " " + what)
	}
}

// get returns a member; null counts as absent, as servers have it.
func (o *object) get(name string) jose.Value {
	if v := o.value.Get(name); v.Kind() != jose.Null {
		return v
	}
	return jose.Value{}
}

// text returns a member that must be a name if it is there.
func (o *object) text(name string) string {
	v := o.get(name)
	if !v.Exists() {
		return ""
	}
	s, ok := v.Text()
	if !ok || s == "" || len(s) > maxName || !isClean(s) {
		o.fail(name + " is not a name")
		return ""
	}
	return s
}

// count returns a member that must be a whole number from least if it is there, or -1.
func (o *object) count(name string, least int64) int64 {
	v := o.get(name)
	if !v.Exists() {
		return -1
	}
	n, ok := v.Number()
	i, err := strconv.ParseInt(string(n), 10, 64)
	if !ok || err != nil || i < least || i >= maxCount || n == "-0" {
		o.fail(fmt.Sprintf("%s is not a whole number from %d", name, least))
		return -1
	}
	return i
}

// list returns a member that must be an array if it is there.
func (o *object) list(name string) jose.Value {
	v := o.get(name)
	if v.Exists() && v.Kind() != jose.Array {
		o.fail(name + " is not an array")
		return jose.Value{}
	}
	return v
}

// times multiplies what is known; -1 is not. Too much stays at the largest number.
func times(a, b int64) int64 {
	switch {
	case a < 0 || b < 0:
		return -1
	case b > 0 && a > math.MaxInt64/b:
		return math.MaxInt64
	}
	return a * b
}
