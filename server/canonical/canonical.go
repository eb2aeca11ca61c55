// Package canonical gives a request its one reading.
//
// An attack on authorization often is a disagreement: the proxy, the policy and
// the upstream each read the same bytes, and read them differently. So this
// package does not repair what it cannot be sure of. Whatever some component in
// the chain could read in a second way is refused, and only what is left is
// filled into a policy.Request, which is all that later phases look at.
//
// Read goes through the request once, in this order:
//
//	size      counts and lengths of everything, before any work is done on it
//	headers   every name is a lower-case token and every value free of control
//	          characters; a header that decides anything occurs once; pseudo
//	          headers agree with the request line; Connection names nothing that
//	          must reach the upstream; a method override changes no method
//	line      method, scheme, authority, path, query
//	client    the address behind the trusted hops, and whether it used TLS
//
// The path is split at its slashes, and each segment is read alone: parameters
// are cut off, percent escapes decoded once, and then every rule is checked on
// the decoded text and on its skeleton (compatibility-normalized, case-folded,
// without invisible characters), because an upstream may see either. A segment
// fails if it holds a separator, a control character, a second layer of escapes,
// a dot segment in any disguise, or dots and spaces at the edge that a file
// system drops. Three repairs are benign enough to be made, each named in the
// configuration: merging slashes, stripping parameters, decoding once. A repair
// that is turned off is a refusal.
//
// What no single reading can settle is letter case and look-alike letters: one
// upstream keeps /Admin and /admin apart and another does not. Rules that allow
// match the path exactly. Rules that deny must match its Fold as well.
//
// A request without anything odd in it is read without allocating.
package canonical

import (
	"strings"

	"github.com/postern-auth/postern/policy"
)

// Reader reads requests. It is immutable and safe for concurrent use.
type Reader struct {
	limits                        LimitConfig
	mergeSlashes, stripParameters bool
	encodedSlash                  EncodedSlash
	decodeDelimiters              bool
	headers                       headerRules
	client                        clientRules
}

// Refusal says that a request has no single reading, or is too large to look at: its
// reason is policy.ReasonRequestInvalid or policy.ReasonRequestTooLarge. Its detail holds
// nothing that the client chose, so it is safe to print.
type Refusal = policy.Refusal

func invalid(detail string) error {
	return &Refusal{Reason: policy.ReasonRequestInvalid, Detail: detail}
}

func tooLarge(detail string) error {
	return &Refusal{Reason: policy.ReasonRequestTooLarge, Detail: detail}
}

// line is what the attributes say of the request line. Where a field is empty,
// the pseudo header speaks for it.
type line struct {
	method, scheme, path string
	// host is the field; authority and hostHeader are two more witnesses of it.
	host, authority, hostHeader string
	contentType                 string
	forwardedProto              string
	hasContentType              bool
}

func (l *line) hasHost() bool { return l.host != "" || l.authority != "" || l.hostHeader != "" }

// Read fills q with the one reading of a, reusing the capacity of q.Segments.
// The strings in q share memory with those in a.
//
// Every error is a *Refusal; q is then empty but for that capacity. A question
// about an action (a.Action) needs no request line; if it brings one, that is
// read like any other.
func (r *Reader) Read(a *policy.Attributes, q *policy.Request) error {
	*q = policy.Request{Segments: q.Segments[:0]}
	err := r.read(a, q)
	if err != nil {
		*q = policy.Request{Segments: q.Segments[:0]}
	}
	return err
}

func (r *Reader) read(a *policy.Attributes, q *policy.Request) error {
	if err := r.checkSize(a); err != nil {
		return err
	}
	l := line{method: a.Method, scheme: a.Scheme, host: a.Host, path: a.Path}
	if detail := r.headers.read(a.Headers, &l); detail != "" {
		return invalid(detail)
	}
	if err := r.readScheme(&l, q); err != nil {
		return err
	}
	if a.Action == nil || l.method != "" || l.path != "" {
		if err := r.readLine(a, &l, q); err != nil {
			return err
		}
	}
	if l.hasHost() {
		if detail := readAuthority(&l, q); detail != "" {
			return invalid(detail)
		}
	}
	if err := r.checkTexts(a); err != nil {
		return err
	}
	q.ClientIP = r.client.address(a)
	return nil
}

// checkSize refuses what is too large to be worth reading.
func (r *Reader) checkSize(a *policy.Attributes) error {
	switch {
	case len(a.Path) > r.limits.MaxPathBytes+1+r.limits.MaxQueryBytes:
		return tooLarge("path and query are too long")
	case len(a.Body) > r.limits.MaxBodyBytes:
		return tooLarge("the body is too large")
	case len(a.Headers) > r.limits.MaxHeaders:
		return tooLarge("too many header fields")
	}
	total := 0
	for i := range a.Headers {
		h := &a.Headers[i]
		if len(h.Value) > r.limits.MaxHeaderValueBytes {
			return tooLarge("a header value is too long")
		}
		total += len(h.Name) + len(h.Value)
	}
	if total > r.limits.MaxHeaderBytes {
		return tooLarge("the header fields are too large")
	}
	return nil
}

// readScheme settles scheme and plaintext. A trusted x-forwarded-proto speaks
// for the client's own connection, which the gateway's scheme may not.
func (r *Reader) readScheme(l *line, q *policy.Request) error {
	told := l.scheme
	if r.client.trustProto && l.forwardedProto != "" {
		told = l.forwardedProto
	}
	for _, s := range [...]string{l.scheme, told} {
		switch {
		case s == "":
			q.Scheme = ""
		case equalFoldASCII(s, "https"), equalFoldASCII(s, "wss"):
			q.Scheme = "https"
		case equalFoldASCII(s, "http"), equalFoldASCII(s, "ws"):
			q.Scheme = "http"
		default:
			return invalid("scheme: not http or https")
		}
	}
	q.Plaintext = q.Scheme == "http"
	return nil
}

// readLine reads method, path and query.
func (r *Reader) readLine(a *policy.Attributes, l *line, q *policy.Request) error {
	if detail := checkMethod(l.method); detail != "" {
		return invalid(detail)
	}
	q.Method = l.method

	path, query, _ := strings.Cut(l.path, "?")
	if len(path) > r.limits.MaxPathBytes {
		return tooLarge("the path is too long")
	}
	if len(query) > r.limits.MaxQueryBytes {
		return tooLarge("the query is too long")
	}
	if detail := r.readPath(path, q); detail != "" {
		return invalid(detail)
	}
	if detail := checkQuery(query, l.method); detail != "" {
		return invalid(detail)
	}
	q.Query = query

	if isGRPC(l.contentType) || isProxyless(a, l) {
		splitRPC(q)
	}
	if q.RPC == "" && !l.hasHost() {
		return invalid("host: missing")
	}
	return nil
}

// checkMethod accepts the tokens of RFC 9110 section 9.1. Case is kept: "get" is
// another method than "GET". Section 18.2 reserves "*", which a policy might take
// for a wildcard, and "PRI", which opens an HTTP/2 connection. CONNECT asks for a
// tunnel, whose content nobody could check.
func checkMethod(m string) string {
	switch {
	case m == "":
		return "method: missing"
	case len(m) > maxMethod:
		return "method: too long"
	case m == "*" || m == "PRI":
		return "method: reserved"
	case equalFoldASCII(m, "CONNECT"):
		return "method: CONNECT is not served"
	case !isToken(m):
		return "method: not a token"
	}
	return ""
}

// maxMethod leaves room beyond the longest registered name, UPDATEREDIRECTREF.
const maxMethod = 40

// isGRPC reports whether the media type is that of gRPC or gRPC-Web.
func isGRPC(contentType string) bool {
	const media = "application/grpc"
	if len(contentType) < len(media) || !equalFoldASCII(contentType[:len(media)], media) {
		return false
	}
	if len(contentType) == len(media) {
		return true
	}
	switch contentType[len(media)] {
	case '+', ';', '-', ' ':
		return true
	}
	return false
}

// isProxyless recognizes a gRPC client or server that asks for itself (gRFC
// A92): it knows no host and no scheme, and a client has not yet written its
// content type. Behind a gateway, a request always has a scheme.
func isProxyless(a *policy.Attributes, l *line) bool {
	return a.Proxyless && l.scheme == "" && !l.hasHost() && !l.hasContentType
}

// splitRPC names the service and method of a gRPC path, which has exactly two
// segments and is always posted.
func splitRPC(q *policy.Request) {
	if q.Method == "POST" && len(q.Segments) == 2 && q.Segments[0] != "" && q.Segments[1] != "" {
		q.Service, q.RPC = q.Segments[0], q.Segments[1]
	}
}

// checkTexts bounds the tenant, the words of an action, and the name and tenant that a
// caller gives its client, which go into logs, header fields and rates. A colon in the type
// would let "type:id" be split in two places.
func (r *Reader) checkTexts(a *policy.Attributes) error {
	texts := [6]string{a.Tenant}
	if who := a.Asserted; who != nil {
		texts[1], texts[2] = who.ID, who.Tenant
	}
	if action := a.Action; action != nil {
		texts[3], texts[4], texts[5] = action.Name, action.ResourceType, action.ResourceID
		if strings.Contains(action.ResourceType, ":") {
			return invalid("action: a colon in the resource type")
		}
	}
	for _, s := range texts {
		if len(s) > r.limits.MaxPathBytes {
			return tooLarge("the tenant, action or subject is too long")
		}
		if detail := checkText(s); detail != "" {
			return invalid("tenant, action or subject: " + detail)
		}
	}
	return nil
}
