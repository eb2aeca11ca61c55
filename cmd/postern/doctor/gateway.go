package doctor

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server"
)

// probe is a request that is sent through the gateway.
type probe struct {
	what   string
	path   string // as it stands in the request line
	fields []Field
}

// identityFields are what only Postern may say about a caller. All of their spellings are
// sent: some gateways and services take one for the other.
var identityFields = []string{
	"X-Auth-Principal", "X-Auth-Tenant", "X-Auth-Roles", "X-Auth-Scopes", "X-Auth-User", "X-Auth-Email", "X_Auth_Principal",
}

// pathForms are paths that some servers read as another one.
func pathForms(p string) []probe {
	p = "/" + strings.Trim(p, "/")
	dir, last := path.Split(p)
	upper := strings.ToUpper(p)
	all := []probe{
		{what: "a doubled slash", path: "/" + p},
		{what: "a dot segment", path: "/." + p},
		{what: "two dots", path: "/postern-doctor/.." + p},
		{what: "two dots, escaped", path: "/postern-doctor/%2e%2e" + p},
		{what: "two dots with an escaped slash", path: "/postern-doctor/..%2f" + strings.TrimPrefix(p, "/")},
		{what: "two dots, escaped twice", path: "/postern-doctor/%252e%252e" + p},
		{what: "a parameter", path: dir + last + ";postern=doctor"},
		{what: "a slash at the end", path: strings.TrimSuffix(p, "/") + "/"},
		{what: "a backslash", path: "/postern-doctor/..\\" + strings.TrimPrefix(p, "/")},
		{what: "a NUL", path: p + "%00"},
	}
	if upper != p {
		all = append(all, probe{what: "capitals", path: upper})
	}
	return all
}

// lookThroughGateway sends requests to a URL behind the gateway.
func (x *examination) lookThroughGateway(ctx context.Context) {
	at, err := url.Parse(x.URL)
	if err != nil {
		x.problem("gateway", "what is behind the gateway is not named by a URL", "name it as in https://shop.example.com/orders")
		return
	}
	where := at.EscapedPath()
	if where == "" {
		where = "/"
	}
	plain := probe{what: "no credential", path: where}
	status, _, err := x.send(ctx, at, plain)
	if err != nil {
		x.problem("gateway", fmt.Sprintf("%s does not answer: %v", x.URL, err), "is it the gateway's address?")
		return
	}
	switch told := x.told(ctx, at, plain); {
	case refused(status):
		x.ok("gateway", "no credential: status %d", status)
	case told.allowed:
		x.warn("gateway", "the policy lets everybody in at "+x.URL+", so that nothing can be learnt there", "give a --url that needs a credential")
		return
	case isFault(status):
		x.problem("gateway", fmt.Sprintf("no credential: status %d, which is no decision", status), "does the gateway reach Postern?")
		return
	default:
		x.problem("gateway", fmt.Sprintf("no credential: status %d: the gateway lets requests through without asking, or without obeying", status), "see `postern explain` and the gateway's configuration")
		return
	}
	x.lookAtGarbage(ctx, at, where)
	x.lookAtTricks(ctx, at, where)
	if x.Credential == nil {
		x.skip("gateway", "a good credential was not tried: give --credential")
		return
	}
	x.lookAtCredential(ctx, at, where)
}

// credentialFields are the header fields in which credentials are looked for.
func (x *examination) credentialFields() []string {
	if x.Config == nil {
		return server.Default().CredentialFields()
	}
	return x.Config.CredentialFields()
}

// lookAtGarbage sends credentials that nobody has issued, in each place where they are
// looked for.
func (x *examination) lookAtGarbage(ctx context.Context, at *url.URL, where string) {
	for _, name := range append(x.credentialFields(), "Proxy-Authorization") {
		value := "postern-doctor-" + rand.Text()
		if strings.EqualFold(name, "authorization") || name == "Proxy-Authorization" {
			value = "Bearer " + value
		}
		if name == "cookie" {
			value = "session=" + value
		}
		x.expectRefusal(ctx, at, probe{"a false credential in " + strings.ToLower(name), where, []Field{{name, policy.NewSecret(value)}}})
	}
	x.expectRefusal(ctx, at, probe{"header fields of an identity, and no credential", where, forged("admin")})
}

func forged(value string) (all []Field) {
	for _, name := range identityFields {
		all = append(all, Field{name, policy.NewSecret(value)})
	}
	return all
}

// expectRefusal sends what nobody may let in.
func (x *examination) expectRefusal(ctx context.Context, at *url.URL, p probe) {
	status, _, err := x.send(ctx, at, p)
	switch {
	case err != nil:
		x.warn("gateway", fmt.Sprintf("%s: no answer: %v", p.what, err), "")
	case refused(status):
		x.ok("gateway", "%s: status %d", p.what, status)
	case isFault(status):
		x.warn("gateway", fmt.Sprintf("%s: status %d, which is no decision", p.what, status), "see the gateway's log")
	default:
		x.problem("gateway", fmt.Sprintf("%s: status %d: it was let through", p.what, status), "see the gateway's configuration, and the order of its filters")
	}
}

// lookAtTricks sends the path in forms that some servers take for it, without a
// credential. Neither the form nor the path may be let through, unless Postern itself
// says so for one of them: gateways may tidy up before they ask.
func (x *examination) lookAtTricks(ctx context.Context, at *url.URL, where string) {
	let := 0
	for _, p := range pathForms(where) {
		status, _, err := x.send(ctx, at, p)
		if err != nil || refused(status) || isFault(status) || status >= 300 && status < 500 {
			continue // a redirect or a 404 tells nobody anything
		}
		if told := x.told(ctx, at, p); told.allowed || told.byDoor {
			continue
		}
		let++
		x.problem("gateway", fmt.Sprintf("%s (%s): status %d: what is refused as %s is let through in this form", p.what, p.path, status, where), "have the gateway normalize paths before it asks; see docs/envoy.md")
	}
	if let == 0 {
		x.ok("gateway", "no form of the path gets past")
	}
}

// lookAtCredential sends a good credential: it has to be taken, and nobody may add to it.
func (x *examination) lookAtCredential(ctx context.Context, at *url.URL, where string) {
	good := probe{"your credential", where, x.Credential}
	status, _, err := x.send(ctx, at, good)
	told := x.told(ctx, at, good)
	switch {
	case err != nil:
		x.problem("gateway", fmt.Sprintf("your credential: no answer: %v", err), "")
		return
	case refused(status) && told.known && !told.allowed:
		x.problem("gateway", fmt.Sprintf("your credential: status %d, and Postern says %s", status, told.reason), "`postern check` and `postern explain` say why")
		return
	case refused(status) || isFault(status):
		x.problem("gateway", fmt.Sprintf("your credential: status %d", status), "does the gateway pass the header field on to Postern? `postern check` asks without it")
		return
	case told.known && !told.allowed:
		x.problem("gateway", fmt.Sprintf("your credential: status %d, and Postern denies it: %s", status, told.reason), "does the gateway ask this server?")
		return
	}
	x.ok("gateway", "your credential: status %d", status)
	marker := "postern-doctor-" + rand.Text()
	_, body, err := x.send(ctx, at, probe{"", where, append(forged(marker), x.Credential...)})
	switch {
	case err != nil:
	case strings.Contains(body, marker):
		x.problem("gateway", "a header field such as X-Auth-Principal that the client sent reaches the service, which repeats it", "have the gateway remove what Postern says is to be removed, and X_Auth_Principal too")
	default:
		x.ok("gateway", "header fields of an identity that a client sends are not repeated by the service")
	}
}

// refused reports whether a status is a decision against the request.
func refused(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusBadRequest || status == http.StatusTooManyRequests || status == http.StatusMisdirectedRequest
}

func isFault(status int) bool { return status >= 500 }

// verdict is what Postern says itself.
type verdict struct {
	known, allowed bool
	reason         string
	// byDoor says that Envoy would be told something else: what the policy wants done
	// to the query, only its door can do.
	byDoor bool
}

// told asks Postern about a request, if it can be asked.
func (x *examination) told(ctx context.Context, at *url.URL, p probe) verdict {
	if x.Server.Address == "" {
		return verdict{}
	}
	conn, err := x.Server.Dial()
	if err != nil {
		return verdict{}
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel, err := x.Server.Context(ctx)
	if err != nil {
		return verdict{}
	}
	defer cancel()
	target := &posternv1.HttpTarget{Method: http.MethodGet, Scheme: "https", Host: at.Host, Path: p.path, SourceIp: "127.0.0.1"}
	for _, f := range p.fields {
		target.Headers = append(target.Headers, &posternv1.HeaderField{Name: strings.ToLower(f.Name), Value: f.Value.Reveal()})
	}
	res, err := posternv1.NewCheckServiceClient(conn).Check(ctx, &posternv1.CheckRequest{Target: &posternv1.Target{Kind: &posternv1.Target_Http{Http: target}}})
	if err != nil {
		return verdict{}
	}
	d := res.GetDecision()
	reason := policy.Reason(d.GetReason())
	if reason == policy.ReasonPolicyResult {
		return verdict{byDoor: true}
	}
	return verdict{known: true, allowed: d.GetAllowed(), reason: reason.String()}
}

// maxAnswerRead is how much of a service's answer is looked at.
const maxAnswerRead = 1 << 20

// send sends a request byte for byte: a client library would tidy up its path.
func (x *examination) send(ctx context.Context, at *url.URL, p probe) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, x.Server.Timeout)
	defer cancel()
	conn, err := x.connect(ctx, at)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	var raw strings.Builder
	fmt.Fprintf(&raw, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: postern-doctor\r\nConnection: close\r\n", p.path, at.Host)
	for _, f := range p.fields {
		value := f.Value.Reveal()
		if strings.ContainsAny(f.Name+value, "\r\n") {
			return 0, "", errors.New("a header field has a line break")
		}
		fmt.Fprintf(&raw, "%s: %s\r\n", f.Name, value)
	}
	if _, err := io.WriteString(conn, raw.String()+"\r\n"); err != nil {
		return 0, "", err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodGet})
	if err != nil {
		return 0, "", errors.New("what came back is not HTTP")
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswerRead))
	for _, values := range res.Header {
		text = append(text, strings.Join(values, "\n")...)
	}
	return res.StatusCode, string(text), nil
}

func (x *examination) connect(ctx context.Context, at *url.URL) (net.Conn, error) {
	port := at.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[at.Scheme]
	}
	address := net.JoinHostPort(at.Hostname(), port)
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if at.Scheme == "http" {
		return dialer.DialContext(ctx, "tcp", address)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if x.Server.CA != "" {
		ours, err := x.Server.TLSConfig()
		if err != nil {
			return nil, err
		}
		config.RootCAs = ours.RootCAs
	}
	config.ServerName, config.NextProtos = at.Hostname(), []string{"http/1.1"}
	return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", address)
}
