package main

import (
	"cmp"
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
	"strconv"
	"strings"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/outbound"
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

func (d *doctor) lookAtServer(ctx context.Context) {
	listen := server.Default().Listen
	if d.cfg != nil {
		listen = d.cfg.Listen
		d.tls = d.tls || d.cfg.TLS != nil
	}
	d.address = placeOf(d.address, listen.GRPC)
	answers := d.lookAtHealth(ctx)
	if at := placeOf(d.admin, listen.Admin); at == "" {
		d.skip("server", "listen.admin is off: readiness and metrics are not known")
	} else if answers || d.admin != "" {
		d.lookAtAdmin(ctx, at, d.cfg != nil && d.cfg.TLS != nil && !listen.Admin.Local())
	}
}

// lookAtHealth asks the listener that decides.
func (d *doctor) lookAtHealth(ctx context.Context) bool {
	conn, err := d.dial()
	if err != nil {
		d.problem("server", err.Error(), "")
		return false
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		d.problem("server", d.noAnswer(status.Convert(err)).Error(), "")
		return false
	}
	if res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		d.problem("server", d.address+" answers, and does not serve: "+res.GetStatus().String(), "what /readyz says is below")
	} else {
		d.ok("server", "%s serves", d.address)
	}
	if d.encrypted() {
		d.lookAtHandshake(ctx)
	}
	return true
}

// lookAtHandshake looks at the certificate that clients are shown.
func (d *doctor) lookAtHandshake(ctx context.Context) {
	config, err := d.tlsConfig()
	if err != nil {
		return
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", d.address)
	if err != nil {
		return // the answer above came through TLS
	}
	defer func() { _ = conn.Close() }()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	d.lookAtChain("the certificate that "+d.address+" shows", chain)
	if d.cfg == nil || d.cfg.TLS == nil {
		return
	}
	if onDisk, err := readCertificates(string(d.cfg.TLS.Cert)); err == nil && len(onDisk) > 0 && !onDisk[0].Equal(chain[0]) {
		d.warn("tls", "the server shows another certificate than that of tls.cert", "is it another server? If not, its log says why it did not take over the new one")
	}
}

// page is what a listener answered.
type page struct {
	status int
	header http.Header
	text   string
}

// page fetches a page of the admin listener, or of the listener for gateways.
func (d *doctor) page(ctx context.Context, at string, secure bool, path string, fields http.Header) (page, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	scheme, host := "http", at
	if socket, isSocket := strings.CutPrefix(at, "unix://"); isSocket {
		host = "localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	if secure {
		config, err := d.tlsConfig()
		if err != nil {
			return page{}, err
		}
		scheme, transport.TLSClientConfig = "https", config
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
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
func (d *doctor) token() http.Header {
	fields := http.Header{}
	if ctx, cancel, err := d.context(context.Background()); err == nil {
		cancel()
		for _, value := range outgoing(ctx, "authorization") {
			fields.Add("Authorization", value)
		}
	}
	return fields
}

// lookAtAdmin reads the conditions, the metrics and the clock.
func (d *doctor) lookAtAdmin(ctx context.Context, at string, secure bool) {
	asked := d.now()
	answer, err := d.page(ctx, at, secure, "/readyz", d.token())
	if err != nil {
		d.problem("server", fmt.Sprintf("the admin listener %s does not answer: %v", at, err), "name it with --admin, or see listen.admin")
		return
	}
	d.lookAtClock("server", "the server", answer.header, asked)
	var ready struct {
		Conditions []struct {
			Name, Detail string
			Ready        bool
		}
	}
	if err := json.Unmarshal([]byte(answer.text), &ready); err != nil || len(ready.Conditions) == 0 {
		d.problem("server", at+" is not the admin listener of a Postern", "name it with --admin")
		return
	}
	for _, c := range ready.Conditions {
		switch told := strings.TrimSuffix(c.Name+": "+c.Detail, ": "); {
		case !c.Ready:
			d.problem("ready", told+" is not ready", "the server's log says more")
		case slices.ContainsFunc(alarming, func(part string) bool { return strings.Contains(c.Detail, part) }):
			d.warn("ready", told, "the server's log says more")
		default:
			d.ok("ready", "%s", told)
		}
	}
	if metrics, err := d.page(ctx, at, secure, "/metrics", d.token()); err == nil {
		d.lookAtMetrics(metrics.text)
	}
}

// alarming are parts of what a condition says that works on with what it had.
var alarming = []string{"failed", "no keys", "not heard of", "cannot", "does not answer", "the receiver"}

// lookAtClock compares a Date field with the clock here. It has seconds only, and the
// answer was under way for a while.
func (d *doctor) lookAtClock(about, who string, answer http.Header, asked time.Time) {
	date, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return
	}
	now := d.now()
	skew := time.Duration(0)
	switch {
	case date.Before(asked.Truncate(time.Second)):
		skew = date.Sub(asked)
	case date.After(now):
		skew = date.Sub(now)
	}
	switch {
	case skew.Abs() > time.Minute:
		d.problem(about, fmt.Sprintf("the clock of %s is %s off this one: tokens look expired, or not yet good", who, skew.Round(time.Second)), "let both follow NTP")
	case skew.Abs() > 5*time.Second:
		d.warn(about, fmt.Sprintf("the clock of %s is %s off this one", who, skew.Round(time.Second)), "let both follow NTP")
	}
}

// alarm is a metric that says that something is wrong once it is above a bound.
type alarm struct {
	metric string
	above  float64
	level  level
	text   string
	hint   string
}

var alarms = []alarm{
	{"postern_store_blind", 0, levelProblem, "the replica has not heard of changes in the store for too long, and denies", "is the store up? See docs/store.md"},
	{"postern_store_failed", 0, levelProblem, "nothing more is written to the store after an error of the disk", "see to the disk, and restart the server"},
	{"postern_store_records_damaged", 0, levelProblem, "there are records in the store that cannot be read; what they name is denied", "`postern store check`"},
	{"postern_keys_unverifiable", 0, levelProblem, "there are keys whose pepper is missing here; all of them are denied", "add it under api_keys.peppers"},
	{"postern_jwks_private_key_seen", 0, levelProblem, "an issuer publishes a private key: whoever has read it can sign tokens", "tell the issuer now"},
	{"postern_journal_failed", 0, levelProblem, "the journal cannot be written; what has to be in it first is denied", "is the disk full?"},
	{"postern_issuer_fetch_failed", 0, levelWarning, "the keys of an issuer could not be fetched the last time", "/readyz and the log say why"},
	{"postern_credential_source_failed", 0, levelWarning, "something is wrong with where credentials of a kind are looked up", "/readyz and the log say why"},
	{"postern_bundle_waiting", 0, levelProblem, "no policy bundle of this name is in force", "the log says why"},
	{"postern_bundle_failed", 0, levelWarning, "the newest policy bundle is not in force", "the log says why"},
	{"postern_reload_failed", 0, levelWarning, "the last reload failed, and what was in force stays", "the log says why"},
	{"postern_callers_refused_total", 0, levelWarning, "calls were refused because who made them is not among `callers`", "is it your gateway? Then add it"},
	{"postern_api_keys_quarantined", 0, levelWarning, "there are keys that were sent in plaintext, and are disabled here", "replace them"},
	{"postern_decision_log_dropped_total", 0, levelWarning, "decisions were not logged because the log could not keep up", "read standard error faster, or log less: decisions.log"},
	{"postern_decision_events_sink_failed", 0, levelWarning, "events of decisions could not be written the last time", "the log says why"},
	{"postern_log_dropped_total", 0, levelWarning, "lines of the log were lost because nobody reads it", "read standard error faster"},
	{"postern_trace_failed", 0, levelWarning, "traces cannot be sent", "see tracing.endpoint"},
	{"postern_store_age_seconds", 1, levelWarning, "the replica's view of the store is older than a second", "is the store slow?"},
}

// lookAtMetrics reads what only they tell.
func (d *doctor) lookAtMetrics(text string) {
	told := map[string]bool{}
	for line := range strings.Lines(text) {
		series, number, found := strings.Cut(strings.TrimSpace(line), " ")
		value, err := strconv.ParseFloat(number, 64)
		if !found || err != nil || strings.HasPrefix(line, "#") {
			continue
		}
		name, labels, _ := strings.Cut(series, "{")
		for _, a := range alarms {
			if a.metric == name && value > a.above && !told[series] {
				told[series] = true
				where := strings.TrimSuffix(labels, "}")
				d.add(a.level, "metrics", strings.TrimSuffix(a.text+" ("+cmp.Or(where, name)+")", " ()"), a.hint)
			}
		}
		switch name {
		case "postern_policy_activated_seconds":
			d.ok("policy", "in force since %s", time.Unix(int64(value), 0).UTC().Format(time.RFC3339))
		case "postern_bundle_checked_seconds":
			if age := d.now().Sub(time.Unix(int64(value), 0)); value > 0 && age > time.Hour {
				d.warn("policy", fmt.Sprintf("nobody has said for %s that the bundle in force is the newest (%s)", age.Round(time.Minute), strings.TrimSuffix(labels, "}")), "is the bundle server up?")
			}
		}
	}
}

// lookAtIssuers asks each for its keys, as the server does, and for the time.
func (d *doctor) lookAtIssuers(ctx context.Context) {
	if d.cfg == nil {
		return
	}
	for i := range d.cfg.Issuers {
		issuer := &d.cfg.Issuers[i]
		at := cmp.Or(issuer.JWKS, issuer.Keys.URL)
		if at == "" && issuer.JWKSFile == "" && issuer.Keys.File == "" && !issuer.UsesSecret() {
			at = strings.TrimSuffix(issuer.URL, "/") + "/.well-known/openid-configuration"
		}
		if at != "" {
			d.lookAtIssuer(ctx, issuer, at)
		}
	}
}

func (d *doctor) lookAtIssuer(ctx context.Context, issuer *server.Issuer, at string) {
	fail := func(err error) {
		d.warn("issuer", fmt.Sprintf("%s does not answer here: %v", issuer.URL, err), "its tokens are refused once the keys in memory are too old; can this machine reach it?")
	}
	asks := outbound.Config{
		Timeout: d.timeout, CAFile: issuer.Keys.CAFile,
		InsecureAllowHTTP: issuer.Keys.InsecureAllowHTTP, InsecureAllowPrivateAddresses: issuer.Keys.InsecureAllowPrivateAddresses,
	}
	to, err := outbound.ParseURL(at, &asks)
	if err != nil {
		fail(err)
		return
	}
	client, err := outbound.NewClient(asks)
	if err != nil {
		fail(err)
		return
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		fail(err)
		return
	}
	asked := d.now()
	res, err := outbound.Do(client, req)
	if err != nil {
		fail(err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		fail(outbound.StatusError(res.StatusCode))
		return
	}
	d.lookAtClock("issuer", issuer.URL, res.Header, asked)
	d.ok("issuer", "%s answers", issuer.URL)
}

// lookAtGatewayListener asks by forward-auth about a request without credentials.
func (d *doctor) lookAtGatewayListener(ctx context.Context) {
	if d.cfg == nil || d.cfg.Listen.Gateway.Network() == "" && d.gateway == "" {
		return
	}
	at := placeOf(d.gateway, d.cfg.Listen.Gateway)
	fields := http.Header{
		"X-Forwarded-Method": {"GET"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"doctor.invalid"}, "X-Forwarded-Uri": {"/postern-doctor"},
		"X-Forwarded-For": {"192.0.2.1"},
	}
	if token := d.token().Get("Authorization"); token != "" {
		fields.Set(server.CallerToken, strings.TrimPrefix(token, "Bearer "))
	}
	res, err := d.page(ctx, at, d.cfg.TLS != nil && !d.cfg.Listen.Gateway.Local(), "/forward-auth/traefik", fields)
	switch {
	case err != nil:
		d.problem("gateway", fmt.Sprintf("%s does not answer: %v", at, err), "see listen.gateway")
	case res.status == http.StatusNotFound || res.header.Get("Cache-Control") == "" && res.status == http.StatusOK:
		d.problem("gateway", fmt.Sprintf("%s answers with status %d, as a Postern would not", at, res.status), "who listens there?")
	case res.status >= 500:
		d.problem("gateway", fmt.Sprintf("%s/forward-auth answers with status %d: it cannot decide", at, res.status), "see what is not ready above")
	default:
		d.ok("gateway", "%s/forward-auth answers", at)
	}
}
