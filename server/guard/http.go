package guard

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// HTTP lets requests through to next that Postern allows, with who called in their
// context, and answers all others itself: with Postern's status, its header fields and
// its message, or with 503 where there is no answer.
//
// What Postern sets for an upstream is set on the request, and what it strips is
// stripped: the credential does not reach next, unless it came in the query.
func (g *Guard) HTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := g.Check(r.Context(), g.question(r))
		if err != nil || !allows(answer) {
			refuse(w, answer.GetDecision())
			return
		}
		d := answer.GetDecision()
		passed := r.Clone(context.WithValue(r.Context(), principalKey{}, answer.GetPrincipal()))
		for _, name := range d.GetHeadersToRemove() {
			passed.Header.Del(name)
		}
		for _, h := range d.GetUpstreamHeaders() {
			passed.Header.Del(h.GetName())
		}
		for _, h := range d.GetUpstreamHeaders() {
			passed.Header.Add(h.GetName(), h.GetValue())
		}
		for _, h := range d.GetResponseHeaders() {
			w.Header().Add(h.GetName(), h.GetValue())
		}
		next.ServeHTTP(w, passed)
	})
}

// question is what Postern is asked about a request. The raw target is sent, before any
// decoding: Postern reads it itself.
func (g *Guard) question(r *http.Request) *posternv1.CheckRequest {
	scheme, target := "http", r.RequestURI
	if r.TLS != nil {
		scheme = "https"
	}
	if target == "" { // a request that no server has read
		target = r.URL.RequestURI()
	}
	return &posternv1.CheckRequest{
		CorrelationId: r.Header.Get("X-Request-Id"),
		Target: &posternv1.Target{Kind: &posternv1.Target_Http{Http: &posternv1.HttpTarget{
			Method: r.Method, Host: r.Host, Path: target, Scheme: scheme, SourceIp: addressOf(r.RemoteAddr), Headers: g.selected(r.Header),
		}}},
	}
}

// refuse answers in Postern's place. No decision is 503, and no status makes a refusal a
// success.
func refuse(w http.ResponseWriter, d *posternv1.Decision) {
	status, message := http.StatusServiceUnavailable, "The request could not be decided. Try again."
	if d != nil {
		status, message = int(d.GetHttpStatus()), d.GetMessage()
		if status < 300 || status > 599 {
			status = http.StatusForbidden
		}
		for _, h := range d.GetResponseHeaders() {
			w.Header().Add(h.GetName(), h.GetValue())
		}
		if wait := d.GetRetryDelay().AsDuration(); wait > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64((wait+999999999)/1e9), 10))
		}
	}
	body, err := json.Marshal(map[string]string{"message": message})
	if err != nil {
		body = []byte("{}") // a text always marshals
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
