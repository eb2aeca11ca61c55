// Package forwardauth is the door for gateways that ask over HTTP whether they may let
// a request through: nginx (auth_request), Traefik (ForwardAuth), Caddy (forward_auth)
// and HAProxy.
//
//	gateway ── GET /forward-auth/caddy, the client's own header fields ──→ Postern
//	        ←── 200 and what the upstream is to know, or the answer to the client ──
//
// Such a gateway sends a request of its own that carries the client's header fields,
// and says in further ones what the client asked for. These belong to the gateway:
// exactly one of each must be there, so that one which a client slipped in beside the
// gateway's, or in its place where the gateway forgot it, is never taken for it. Who may
// ask at all is the server's to say (door.Refusal).
//
// # An allow
//
// The answer is 200. A gateway copies fields of it to the upstream request, by a list in
// its own configuration; some of them leave alone what is not in the answer. So every
// field that Postern sets, or takes from what clients send, is in it, empty if there is
// nothing to say: a client cannot keep one of its own. No list has all the spellings that
// a careless application takes for one (X_Auth_Principal, X.Auth.Principal), so a request
// with such a field is refused.
//
// # A deny
//
// The answer is what the client gets. nginx can only pass on 401 and 403, and makes 500
// of all others; so it gets 403 in their place, and the status that was meant in
// X-Postern-Status, from which its configuration can make it again.
package forwardauth

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

// Name is how Attributes and metrics call this door.
const Name = "forwardauth"

// Prefix is the path under which the dialects are: Prefix + "nginx" and so on.
const Prefix = "/forward-auth/"

// StatusHeader tells nginx the status that was meant.
const StatusHeader = "X-Postern-Status"

// Checker decides. It never panics and never errs: a fault is a deny.
type Checker interface {
	Check(ctx context.Context, a *policy.Attributes) policy.Decision
}

// Config configures the door.
type Config struct {
	// StatusProfile and KeyHeaders are those of door.Refusals.
	StatusProfile door.StatusProfile
	KeyHeaders    []string
	// MaxBody is how much of a body is read, in bytes; 0 reads none. Only Traefik
	// forwards bodies (forwardBody); the others may say the length of one that they keep.
	MaxBody int64
}

// Door serves the protocol. It is immutable and safe for concurrent use.
type Door struct {
	checker  Checker
	refusals door.Refusals
	maxBody  int64
	log      *slog.Logger
}

// New returns the door to a Checker. A panic is reported to log; nil means the default
// logger.
func New(checker Checker, c Config, log *slog.Logger) *Door {
	if log == nil {
		log = slog.Default()
	}
	return &Door{
		checker: checker, maxBody: c.MaxBody, log: log,
		refusals: door.Refusals{StatusProfile: c.StatusProfile, KeyHeaders: c.KeyHeaders},
	}
}

// Register offers every dialect under its path.
func (d *Door) Register(mux *http.ServeMux) {
	for name, speaks := range dialects {
		mux.HandleFunc(Prefix+name, func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, speaks) })
	}
}

// serve asks and answers. Whatever panics on the way, the answer is a deny.
func (d *Door) serve(w http.ResponseWriter, r *http.Request, speaks dialect) {
	if r.ContentLength != 0 {
		// A gateway may repeat the length of a body that it does not send. Nobody waits
		// for one: not the handler, and not the server afterwards.
		w.Header().Set("Connection", "close")
	}
	a := &policy.Attributes{}
	dec := d.ask(r, speaks, a)
	if dec.Allowed {
		allow(w, &dec)
		return
	}
	d.deny(w, &dec, a, speaks)
}

func (d *Door) ask(r *http.Request, speaks dialect, a *policy.Attributes) (dec policy.Decision) {
	defer func() {
		if thrown := recover(); thrown != nil {
			door.Recovered(r.Context(), d.log, Name, thrown)
			dec = door.Fault()
		}
	}()
	if reason, refused := door.Refusal(r.Context()); refused {
		door.Deny(&dec, reason)
		return dec
	}
	told := speaks.read(r.Header, a)
	d.readBody(r, a, speaks)
	a.Door, a.Caller = Name, door.Caller(r.Context())
	if !told {
		door.Deny(&dec, policy.ReasonRequestInvalid)
		dec.Status = http.StatusForbidden // the gateway is at fault, and nothing that the client changes helps
		return dec
	}
	dec = d.checker.Check(r.Context(), a)
	door.Settle(&dec)
	if dec.Allowed && speaks.lists && d.aliased(a.Headers, dec.Remove) {
		door.Deny(&dec, policy.ReasonRequestInvalid)
	}
	return dec
}

// aliased reports whether a field was sent that must not go on, and under a name that is
// not configured: a gateway's list has the name for which it is taken.
func (d *Door) aliased(sent policy.Headers, remove []string) bool {
	return slices.ContainsFunc(remove, func(name string) bool {
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" || slices.Contains(d.refusals.KeyHeaders, name) {
			return false
		}
		_, n := sent.Get(name)
		return n > 0
	})
}

// readBody takes the body, if the gateway forwards it and it is not too large.
func (d *Door) readBody(r *http.Request, a *policy.Attributes, speaks dialect) {
	a.Size = -1
	if text, n := a.Headers.Get("content-length"); n == 1 {
		if size, err := strconv.ParseInt(text, 10, 64); err == nil && size >= 0 {
			a.Size = size
		}
	}
	a.BodyTruncated = a.Size > 0 || r.ContentLength < 0
	if !speaks.bodies || d.maxBody <= 0 || r.ContentLength <= 0 || r.ContentLength > d.maxBody {
		return
	}
	if body, err := io.ReadAll(io.LimitReader(r.Body, d.maxBody)); err == nil && int64(len(body)) == r.ContentLength {
		a.Body, a.BodyTruncated = body, false
	}
}

// allow lists every field that a client must not keep, empty if nothing is set.
func allow(w http.ResponseWriter, d *policy.Decision) {
	h := w.Header()
	for _, name := range d.Remove {
		if !hopByHop(name) {
			h[http.CanonicalHeaderKey(name)] = []string{""}
		}
	}
	for _, field := range d.Upstream {
		key := http.CanonicalHeaderKey(field.Name)
		if values := h[key]; len(values) == 1 && values[0] == "" {
			values[0] = field.Value
			continue
		}
		h[key] = append(h[key], field.Value)
	}
	for _, field := range d.Client {
		if slices.Contains(d.Remove, field.Name) || slices.ContainsFunc(d.Upstream, func(u policy.Header) bool { return u.Name == field.Name }) {
			continue // the gateway could not tell it from what is for the upstream
		}
		h.Add(field.Name, field.Value)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
}

// hopByHop reports whether a field is of one connection only (RFC 9110 section 7.6.1):
// it would be taken for one of the answer's own.
func hopByHop(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length":
		return true
	}
	return false
}

func (d *Door) deny(w http.ResponseWriter, dec *policy.Decision, a *policy.Attributes, speaks dialect) {
	den := d.refusals.Render(dec, a)
	h := w.Header()
	for _, field := range den.Headers {
		if !hopByHop(field.Name) {
			h.Add(field.Name, field.Value)
		}
	}
	if den.Status == http.StatusUnauthorized && len(h.Values("Www-Authenticate")) == 0 {
		h.Set("Www-Authenticate", "Bearer") // RFC 9110 section 15.5.2 wants one, and so does nginx
	}
	if speaks.narrow {
		h.Set(StatusHeader, strconv.Itoa(den.Status))
		if den.Status != http.StatusUnauthorized && den.Status < http.StatusInternalServerError {
			den.Status = http.StatusForbidden
		}
	}
	w.WriteHeader(den.Status)
	_, _ = io.WriteString(w, den.Body)
}

// dialect says in which fields a gateway tells what the client asked for.
type dialect struct {
	method string
	// url holds scheme, host and request target at once. Else each has its own field.
	url                  string
	scheme, host, target string
	// narrow is a gateway that passes on 401 and 403 only.
	narrow bool
	// lists is one that takes over, or takes away, only what its configuration names.
	lists bool
	// bodies is one that can forward them. Any other may still say how long one is.
	bodies bool
}

// forwarded are the fields that Traefik and Caddy set by themselves.
func forwarded(lists, bodies bool) dialect {
	return dialect{
		method: "X-Forwarded-Method", scheme: "X-Forwarded-Proto", host: "X-Forwarded-Host", target: "X-Forwarded-Uri",
		lists: lists, bodies: bodies,
	}
}

var dialects = map[string]dialect{
	"traefik": forwarded(true, true),
	"caddy":   forwarded(true, false),
	"haproxy": forwarded(false, false),
	// as ingress-nginx sets them; in plain nginx they are set by its configuration
	"nginx": {method: "X-Original-Method", url: "X-Original-Url", narrow: true, lists: true},
}

// clients is where every gateway adds the address of its client at the end.
const clients = "X-Forwarded-For"

// read fills the attributes, and reports whether the gateway has said all that it must.
// What the gateway says is no header field of the client's, and is left out of them.
func (s dialect) read(h http.Header, a *policy.Attributes) (told bool) {
	told = true
	one := func(name string) string {
		values := h.Values(name)
		if len(values) != 1 || values[0] == "" {
			told = false
			return ""
		}
		return values[0]
	}
	a.Method = one(s.method)
	if s.url != "" {
		a.Scheme, a.Host, a.Path = cutURL(one(s.url))
		told = told && a.Scheme != "" && a.Host != "" && a.Path != ""
	} else {
		a.Scheme, a.Host, a.Path = one(s.scheme), one(s.host), one(s.target)
	}
	own := []string{s.method, s.url, s.scheme, s.host, s.target}
	names := make([]string, 0, len(h))
	for name := range h {
		if !slices.Contains(own, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range h[name] {
			a.Headers = append(a.Headers, policy.Header{Name: strings.ToLower(name), Value: value})
		}
	}
	a.Source.Address = lastAddress(h)
	return told
}

// cutURL takes a URL apart without changing a byte of it; there is no target in what is
// none. The rest is read where all requests are.
func cutURL(text string) (scheme, host, target string) {
	scheme, rest, _ := strings.Cut(text, "://")
	at := strings.IndexAny(rest, "/?#\\")
	if at < 0 {
		return "", "", ""
	}
	return scheme, rest[:at], rest[at:]
}

// lastAddress is the client as the gateway saw it: what it added to the end of
// X-Forwarded-For. The rest of the field counts as far as the configuration trusts it.
func lastAddress(h http.Header) (at netip.AddrPort) {
	fields := h.Values(clients)
	if len(fields) == 0 {
		return at
	}
	last := fields[len(fields)-1]
	last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
	if ip, err := netip.ParseAddr(strings.Trim(last, "[]")); err == nil {
		return netip.AddrPortFrom(ip, 0)
	}
	at, _ = netip.ParseAddrPort(last)
	return at
}
