// Package door holds the furniture that all doors share. A door turns a wire
// message into policy.Attributes, asks, and turns the policy.Decision into a
// wire message: it decides nothing, reads nothing of meaning into a header, and
// keeps nothing between requests.
//
// What is the same behind every door lives here, so that no door can do it
// differently: which name the enforcement point has (Caller), how it connected (Connection) and whether it may ask
// at all (IsUnlisted, Refusal), which Decision is an allow (Settle), what a panic comes to
// (Recovered, Fault), how a deny looks to the end client (Refusals), which header
// fields can be sent at all (Sendable), how header names are compared (Lower), what
// counts as JSON (JSON), and how Postern's own messages are written (DecisionProto).
package door

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"unicode/utf8"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/postern-auth/postern/policy"
)

type callerKey struct{}

// WithCaller returns a context that carries the name of the enforcement point
// that asks, as the configuration's `callers` know it. The server's interceptor
// sets it after it has verified the connection; doors only read it.
func WithCaller(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, callerKey{}, name)
}

// Caller returns the name of the enforcement point that asks; empty if nobody
// is listed.
func Caller(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}

// Connection returns the certificate chain with which the enforcement point
// connected, leaf first, as the handshake verified it; nil if it showed none.
func Connection(ctx context.Context) []*x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0]
}

// WithPeer is the context of an HTTP request in which its connection is that of a gRPC call.
func WithPeer(r *http.Request) context.Context {
	p := &peer.Peer{}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		p.Addr = net.TCPAddrFromAddrPort(at)
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		p.LocalAddr = local
	}
	if r.TLS != nil {
		p.AuthInfo = credentials.TLSInfo{State: *r.TLS}
	}
	return peer.NewContext(r.Context(), p)
}

type refusalKey struct{}

// WithRefusal returns a context for a question that is refused before it is read, whatever
// it asks. A door whose callers may take an error for a yes answers it with a deny for
// that reason.
func WithRefusal(ctx context.Context, r policy.Reason) context.Context {
	return context.WithValue(ctx, refusalKey{}, r)
}

// Refusal returns the reason for which a question is refused before it is read, or false.
func Refusal(ctx context.Context) (policy.Reason, bool) {
	r, refused := ctx.Value(refusalKey{}).(policy.Reason)
	return r, refused
}

// WithUnlisted returns a context for an enforcement point that may not ask.
func WithUnlisted(ctx context.Context) context.Context {
	return WithRefusal(ctx, policy.ReasonCallerUnlisted)
}

// IsUnlisted reports whether the enforcement point may not ask.
func IsUnlisted(ctx context.Context) bool {
	r, refused := Refusal(ctx)
	return refused && r == policy.ReasonCallerUnlisted
}

// Settle makes a whole answer of a Decision before a door looks at it. An allow
// needs both words for it, Allowed and the reason that goes with it, and header
// fields that can be sent as they are: without its identity headers, or with one
// that is cut in two, it would be another allow. Everything else is a deny with
// the reason of one.
func Settle(d *policy.Decision) {
	switch {
	case d.Allowed && d.Reason == policy.ReasonAllowed && allSendable(d.Upstream) && allSendable(d.Client):
	case d.Allowed && d.Reason == policy.ReasonAllowed:
		Deny(d, policy.ReasonInternal)
	case d.Reason == policy.ReasonAllowed:
		Deny(d, policy.ReasonUnspecified)
	default:
		d.Allowed = false
	}
}

func allSendable(list []policy.Header) bool {
	for i := range list {
		if !Sendable(list[i]) {
			return false
		}
	}
	return true
}

// Deny turns a Decision into a deny for another reason, and keeps what names it.
func Deny(d *policy.Decision, r policy.Reason) {
	*d = policy.Decision{
		Reason: r, Status: r.Status(), Message: r.Message(),
		ID: d.ID, Principal: d.Principal, Peer: d.Peer, Route: d.Route, Revision: d.Revision,
	}
}

// Fault is the Decision for a fault in a door itself: a deny that is no answer
// about the caller.
func Fault() (d policy.Decision) {
	Deny(&d, policy.ReasonInternal)
	return d
}

// Recovered reports a panic to the operators. The value that was thrown stays
// out of the log but for its type: it may quote a credential.
func Recovered(ctx context.Context, log *slog.Logger, door string, thrown any) {
	log.LogAttrs(ctx, slog.LevelError, "panic; the request was denied",
		slog.String("door", door), slog.String("type", fmt.Sprintf("%T", thrown)), slog.String("stack", string(debug.Stack())))
}

// Lower returns the field name in lower case. Only ASCII letters have a case
// here (RFC 9110 section 5.1): Unicode would turn the Kelvin sign into a "k" and
// so another field into this one.
func Lower(name string) string {
	for i := range len(name) {
		if capital(name[i]) {
			return lowered(name)
		}
	}
	return name
}

func capital(c byte) bool { return 'A' <= c && c <= 'Z' }

func lowered(name string) string {
	b := []byte(name)
	for i, c := range b {
		if capital(c) {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// Sendable reports whether the header field can be put on any wire unchanged: a
// name that is a token in lower case (RFC 9113 section 8.2), and a value of
// valid UTF-8 without control characters but the tab (RFC 9110 section 5.5). A
// gateway would refuse the rest, cut it in two, or fail to parse the answer and
// then, where it fails open, let the request through.
func Sendable(h policy.Header) bool {
	return sendableName(h.Name) && sendableValue(h.Value)
}

func sendableName(name string) bool {
	for i := range len(name) {
		if !nameBytes[name[i]] {
			return false
		}
	}
	return name != ""
}

func sendableValue(value string) bool {
	ascii := true
	for i := range len(value) {
		switch c := value[i]; {
		case c < ' ' && c != '\t', c == 0x7f:
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return ascii || utf8.ValidString(value)
}

// nameBytes are the bytes of a token (RFC 9110 section 5.6.2) but the capitals.
var nameBytes = func() (is [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") {
		is[c] = true
	}
	return is
}()
