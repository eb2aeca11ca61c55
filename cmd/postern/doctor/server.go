package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/postern-auth/postern/server"
)

// maxAdminPage is more than any page of the admin listener.
const maxAdminPage = 16 << 20

// placeOf is a listener's address as a client needs it.
func placeOf(flag string, at server.Address) string {
	switch {
	case flag != "":
		return flag
	case at.Network() == "unix":
		return "unix://" + at.Target()
	case at.Network() == "":
		return ""
	}
	host, port, err := net.SplitHostPort(at.Target())
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return at.Target()
}

func (x *examination) lookAtServer(ctx context.Context) {
	listen := server.Default().Listen
	if x.Config != nil {
		listen = x.Config.Listen
		x.Server.TLS = x.Server.TLS || x.Config.TLS != nil
	}
	x.Server.Address = placeOf(x.Server.Address, listen.GRPC)
	answers := x.lookAtHealth(ctx)
	if at := placeOf(x.Admin, listen.Admin); at == "" {
		x.skip("server", "listen.admin is off: readiness and metrics are not known")
	} else if answers || x.Admin != "" {
		x.lookAtAdmin(ctx, at, x.Config != nil && x.Config.TLS != nil && !listen.Admin.Local())
	}
}

// lookAtHealth asks the listener that decides.
func (x *examination) lookAtHealth(ctx context.Context) bool {
	conn, err := x.Server.Dial()
	if err != nil {
		x.problem("server", err.Error(), "")
		return false
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, x.Server.Timeout)
	defer cancel()
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		x.problem("server", x.Server.NoAnswer(status.Convert(err)).Error(), "")
		return false
	}
	if res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		x.problem("server", x.Server.Address+" answers, and does not serve: "+res.GetStatus().String(), "what /readyz says is below")
	} else {
		x.ok("server", "%s serves", x.Server.Address)
	}
	if x.Server.Encrypted() {
		x.lookAtHandshake(ctx)
	}
	return true
}

// lookAtHandshake looks at the certificate that clients are shown.
func (x *examination) lookAtHandshake(ctx context.Context) {
	config, err := x.Server.TLSConfig()
	if err != nil {
		return
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", x.Server.Address)
	if err != nil {
		return // the answer above came through TLS
	}
	defer func() { _ = conn.Close() }()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	x.lookAtChain("the certificate that "+x.Server.Address+" shows", chain)
	if x.Config == nil || x.Config.TLS == nil {
		return
	}
	if onDisk, err := readCertificates(string(x.Config.TLS.Cert)); err == nil && len(onDisk) > 0 && !onDisk[0].Equal(chain[0]) {
		x.warn("tls", "the server shows another certificate than that of tls.cert", "is it another server? If not, its log says why it did not take over the new one")
	}
}

// page is what a listener answered.
type page struct {
	status int
	header http.Header
	text   string
}

// page fetches a page of the admin listener, or of the listener for gateways.
func (x *examination) page(ctx context.Context, at string, secure bool, path string, fields http.Header) (page, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	scheme, host := "http", at
	if socket, isSocket := strings.CutPrefix(at, "unix://"); isSocket {
		host = "localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	if secure {
		config, err := x.Server.TLSConfig()
		if err != nil {
			return page{}, err
		}
		scheme, transport.TLSClientConfig = "https", config
	}
	ctx, cancel := context.WithTimeout(ctx, x.Server.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+path, nil)
	if err != nil {
		return page{}, err
	}
	req.Header = fields
	if ip, err := netip.ParseAddr(req.URL.Hostname()); !secure && host != "localhost" && (err != nil || !ip.IsLoopback()) {
		req.Header = http.Header{} // others could read the token on its way
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return page{}, withoutURL(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAdminPage))
	return page{res.StatusCode, res.Header, string(text)}, err
}

// withoutURL is an error of net/http without the URL that it repeats.
func withoutURL(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// token is the header field by which a caller of the admin listener is known.
func (x *examination) token() http.Header {
	fields := http.Header{}
	if token, err := x.Server.Token(); err == nil && token != "" {
		fields.Set("Authorization", "Bearer "+token)
	}
	return fields
}

// lookAtAdmin reads the conditions, the metrics and the clock.
func (x *examination) lookAtAdmin(ctx context.Context, at string, secure bool) {
	asked := x.Now()
	answer, err := x.page(ctx, at, secure, "/readyz", x.token())
	if err != nil {
		x.problem("server", fmt.Sprintf("the admin listener %s does not answer: %v", at, err), "name it with --admin, or see listen.admin")
		return
	}
	x.lookAtClock("server", "the server", answer.header, asked)
	var ready struct {
		Conditions []struct {
			Name, Detail string
			Ready        bool
		}
	}
	if err := json.Unmarshal([]byte(answer.text), &ready); err != nil || len(ready.Conditions) == 0 {
		x.problem("server", at+" is not the admin listener of a Postern", "name it with --admin")
		return
	}
	for _, c := range ready.Conditions {
		switch told := strings.TrimSuffix(c.Name+": "+c.Detail, ": "); {
		case !c.Ready:
			x.problem("ready", told+" is not ready", "the server's log says more")
		case slices.ContainsFunc(alarming, func(part string) bool { return strings.Contains(c.Detail, part) }):
			x.warn("ready", told, "the server's log says more")
		default:
			x.ok("ready", "%s", told)
		}
	}
	if metrics, err := x.page(ctx, at, secure, "/metrics", x.token()); err == nil {
		x.lookAtMetrics(metrics.text)
	}
}

// alarming are parts of what a condition says that works on with what it had.
var alarming = []string{"failed", "no keys", "not heard of", "cannot", "does not answer", "the receiver"}

// lookAtClock compares a Date field with the clock here. It has seconds only, and the
// answer was under way for a while.
func (x *examination) lookAtClock(about, who string, answer http.Header, asked time.Time) {
	date, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return
	}
	now := x.Now()
	skew := time.Duration(0)
	switch {
	case date.Before(asked.Truncate(time.Second)):
		skew = date.Sub(asked)
	case date.After(now):
		skew = date.Sub(now)
	}
	switch {
	case skew.Abs() > time.Minute:
		x.problem(about, fmt.Sprintf("the clock of %s is %s off this one: tokens look expired, or not yet good", who, skew.Round(time.Second)), "let both follow NTP")
	case skew.Abs() > 5*time.Second:
		x.warn(about, fmt.Sprintf("the clock of %s is %s off this one", who, skew.Round(time.Second)), "let both follow NTP")
	}
}

// lookAtGatewayListener asks by forward-auth about a request without credentials.
func (x *examination) lookAtGatewayListener(ctx context.Context) {
	if x.Config == nil || x.Config.Listen.Gateway.Network() == "" && x.Gateway == "" {
		return
	}
	at := placeOf(x.Gateway, x.Config.Listen.Gateway)
	fields := http.Header{
		"X-Forwarded-Method": {"GET"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"doctor.invalid"}, "X-Forwarded-Uri": {"/postern-doctor"},
		"X-Forwarded-For": {"192.0.2.1"},
	}
	if token := x.token().Get("Authorization"); token != "" {
		fields.Set(server.CallerToken, strings.TrimPrefix(token, "Bearer "))
	}
	res, err := x.page(ctx, at, x.Config.TLS != nil && !x.Config.Listen.Gateway.Local(), "/forward-auth/traefik", fields)
	switch {
	case err != nil:
		x.problem("gateway", fmt.Sprintf("%s does not answer: %v", at, err), "see listen.gateway")
	case res.status == http.StatusNotFound || res.header.Get("Cache-Control") == "" && res.status == http.StatusOK:
		x.problem("gateway", fmt.Sprintf("%s answers with status %d, as a Postern would not", at, res.status), "who listens there?")
	case res.status >= 500:
		x.problem("gateway", fmt.Sprintf("%s/forward-auth answers with status %d: it cannot decide", at, res.status), "see what is not ready above")
	default:
		x.ok("gateway", "%s/forward-auth answers", at)
	}
}
