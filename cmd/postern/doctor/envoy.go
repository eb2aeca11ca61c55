package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/server"
)

// maxEnvoyConfig bounds a configuration of Envoy's that is read.
const maxEnvoyConfig = 128 << 20

// The names of Envoy's filters that matter here.
const (
	filterExtAuthz = "envoy.filters.http.ext_authz"
	filterRouter   = "envoy.filters.http.router"
	typeExtAuthz   = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
)

// answeringFilters are filters that answer a request by themselves: before ext_authz, nobody is
// asked then.
var answeringFilters = []string{
	filterRouter, "envoy.filters.http.cache", "envoy.filters.http.aws_lambda",
}

// alteringFilters are filters that can change a request after it was decided on.
var alteringFilters = []string{
	"envoy.filters.http.lua", "envoy.filters.http.wasm", "envoy.filters.http.golang", "envoy.filters.http.ext_proc",
	"envoy.filters.http.header_mutation", "envoy.filters.http.grpc_json_transcoder", "envoy.filters.http.dynamic_modules",
}

// lookAtEnvoy reads the configuration of an Envoy.
func (x *examination) lookAtEnvoy(ctx context.Context) {
	var config any
	var err error
	switch {
	case x.EnvoyAdmin != "" && !x.Offline:
		config, err = x.envoyDump(ctx)
	case x.EnvoyConfig != "":
		config, err = readEnvoyConfig(x.EnvoyConfig)
	default:
		return
	}
	if err != nil {
		x.problem("envoy", err.Error(), "")
		return
	}
	e := envoyWiring{examination: x, all: config, bodies: x.policyReadsBodies()}
	e.look()
}

// envoyDump asks an Envoy what is in force.
func (x *examination) envoyDump(ctx context.Context) (any, error) {
	client := &http.Client{Timeout: x.Server.Timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(x.EnvoyAdmin, "/")+"/config_dump", nil)
	if err != nil {
		return nil, errors.New("--envoy-admin is not a URL")
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("Envoy's admin listener does not answer: %w", withoutURL(err)) //nolint:staticcheck // a name
	}
	defer res.Body.Close()
	var v any
	if res.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(res.Body, maxEnvoyConfig)).Decode(&v) != nil {
		return nil, fmt.Errorf("%s/config_dump is no configuration (status %d)", strings.TrimSuffix(x.EnvoyAdmin, "/"), res.StatusCode)
	}
	return v, nil
}

func readEnvoyConfig(name string) (any, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxEnvoyConfig))
	if err != nil {
		return nil, err
	}
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return nil, fmt.Errorf("%s is neither YAML nor JSON: %w", name, err)
	}
	if _, ok := v.(map[string]any); !ok {
		return nil, fmt.Errorf("%s is no configuration", name)
	}
	return v, nil
}

// policyReadsBodies reports whether the policy looks at bodies, as far as that is known.
func (x *examination) policyReadsBodies() bool {
	if x.Policy == nil {
		return false
	}
	reads := x.Policy()
	if reads == nil || reads.Whole {
		return false
	}
	for _, at := range reads.Paths {
		path := strings.Join(at.Ref, ".")
		if strings.HasPrefix(path, "parsed_body") || strings.HasPrefix(path, "attributes.request.http.body") || strings.HasPrefix(path, "attributes.request.http.raw_body") {
			return true
		}
	}
	return false
}

// envoyWiring is a configuration of Envoy's.
type envoyWiring struct {
	*examination
	all    any
	bodies bool // the policy looks at them
}

func (e *envoyWiring) look() {
	before, managers, asking := len(e.found), 0, 0
	eachObject(e.all, func(n node) {
		if filters := n.list("http_filters"); n["http_filters"] != nil {
			managers++
			if e.lookAtManager(n, filters) {
				asking++
			}
		}
	})
	switch {
	case managers == 0:
		e.problem("envoy", "there is no HTTP connection manager in it", "is it the whole configuration? One that is fetched (LDS) is in --envoy-admin only")
		return
	case asking == 0:
		e.problem("envoy", fmt.Sprintf("none of %d connection managers asks anybody: there is no filter %s", managers, filterExtAuthz), "see deploy/envoy/envoy.yaml")
		return
	case asking < managers:
		e.warn("envoy", fmt.Sprintf("%d of %d connection managers do not ask: whoever reaches their listeners passes", managers-asking, managers), "is that meant?")
	}
	e.lookAtRoutes()
	if !slices.ContainsFunc(e.found[before:], func(f Finding) bool { return f.Level != OK }) {
		e.ok("envoy", "asks as it should")
	}
}

// lookAtManager looks at an HTTP connection manager, and reports whether it asks.
func (e *envoyWiring) lookAtManager(m node, filters []node) bool {
	name := "listener " + m.text("stat_prefix")
	at := slices.IndexFunc(filters, isExtAuthz)
	if at < 0 {
		return false
	}
	for i, f := range filters {
		switch kind := f.text("name"); {
		case i < at && slices.Contains(answeringFilters, kind):
			e.problem("envoy", fmt.Sprintf("%s: %s comes before ext_authz, and answers requests about which nobody was asked", name, kind), "put ext_authz first")
		case i > at && slices.Contains(alteringFilters, kind):
			e.warn("envoy", fmt.Sprintf("%s: %s comes after ext_authz, and can change what was decided on", name, kind), "put it before, unless it leaves method, host, path and identity alone")
		}
	}
	e.lookAtPaths(name, m)
	for _, f := range filters[at:] {
		if isExtAuthz(f) {
			e.lookAtFilter(name, f, f.object("typed_config"))
		}
	}
	return true
}

func isExtAuthz(f node) bool {
	return f.text("name") == filterExtAuthz || strings.HasSuffix(f.object("typed_config").text("@type"), "/"+typeExtAuthz)
}

// lookAtPaths looks whether Envoy and Postern read paths in one way.
func (e *envoyWiring) lookAtPaths(name string, m node) {
	if !m.truth("normalize_path") {
		e.warn("envoy", name+": normalize_path is off: the service gets paths as they were sent, dots included, and may read them in another way than the policy", "set it, as deploy/envoy/envoy.yaml does")
	}
	if !m.truth("merge_slashes") {
		e.warn("envoy", name+": merge_slashes is off: //admin reaches the service as it was sent", "set it")
	}
	switch action := m.text("path_with_escaped_slashes_action"); action {
	case "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD":
	default:
		e.warn("envoy", name+": path_with_escaped_slashes_action keeps %2F as it is, which some services take for a slash", "set it to REJECT_REQUEST")
	}
	if action := m.object("common_http_protocol_options").text("headers_with_underscores_action"); action != "REJECT_REQUEST" && action != "DROP_HEADER" {
		e.warn("envoy", name+": headers_with_underscores_action lets x_auth_principal through, which some services take for x-auth-principal", "set it to REJECT_REQUEST")
	}
	if !m.truth("use_remote_address") {
		e.warn("envoy", name+": use_remote_address is off: x-forwarded-for of clients is believed", "set it on the edge; leave it off behind a proxy of yours only")
	}
}

// lookAtFilter looks at the settings of ext_authz.
func (e *envoyWiring) lookAtFilter(name string, f, c node) {
	problem := func(text, hint string) { e.problem("envoy", name+": "+text, hint) }
	warn := func(text, hint string) { e.warn("envoy", name+": "+text, hint) }
	if c.truth("failure_mode_allow") {
		problem("failure_mode_allow lets every request through while Postern cannot be reached", "remove it")
	}
	if f.truth("disabled") {
		problem("the filter is disabled: only routes that enable it ask", "remove disabled")
	}
	if c["http_service"] != nil {
		problem("http_service is not a protocol of Postern's", "use grpc_service, as deploy/envoy/envoy.yaml does")
		return
	}
	if v := c.text("transport_api_version"); v != "V3" {
		problem("transport_api_version is not V3", "set it")
	}
	for _, field := range []string{"filter_enabled", "filter_enabled_metadata"} {
		if c[field] != nil && !wholly(c.object(field)) {
			problem(field+" lets a part of the requests through without asking", "remove it")
		}
	}
	if code := statusCode(c.object("status_on_error")["code"]); code != 0 && code < 400 {
		problem(fmt.Sprintf("status_on_error %d is no refusal", code), "leave it out, or use ServiceUnavailable")
	}
	if !c.truth("encode_raw_headers") {
		warn("encode_raw_headers is off: repeated fields arrive joined, and two credentials may look like one", "set it")
	}
	e.lookAtTimeout(name, c.object("grpc_service"))
	e.lookAtCluster(name, c.object("grpc_service").object("envoy_grpc").text("cluster_name"))
	e.lookAtHeaders(name, c)
	if e.Config == nil {
		return
	}
	if wantsCertificates(e.Config) && !c.truth("include_peer_certificate") {
		problem("include_peer_certificate is off, and the configuration believes certificates of clients", "set it")
	}
	e.lookAtBodies(name, c)
}

// wholly reports whether a fraction is all of it.
func wholly(fraction node) bool {
	value := fraction.object("default_value")
	parts := map[string]float64{"": 100, "HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
	of := parts[value.text("denominator")]
	return of > 0 && value.number("numerator") >= of
}

// statusCode is a status by number or by Envoy's name; 0 if it is none that matters.
func statusCode(v any) int {
	switch v := v.(type) {
	case float64:
		return int(v)
	case int:
		return v
	case string:
		if v == "OK" || v == "Accepted" || v == "NoContent" || v == "Found" {
			return http.StatusOK
		}
	}
	return 0
}

// envoyTimeout is how long ext_authz waits unless it is told.
const envoyTimeout = 200 * time.Millisecond

// lookAtTimeout compares how long Envoy waits with how long Postern may take.
func (e *envoyWiring) lookAtTimeout(name string, service node) {
	limit := envoyTimeout
	if text := service.text("timeout"); text != "" {
		parsed, err := time.ParseDuration(text)
		if err != nil {
			return
		}
		limit = parsed
	}
	switch {
	case limit == 0 || limit > 10*time.Second:
		e.warn("envoy", fmt.Sprintf("%s: it waits %s for an answer, and holds requests as long", name, limit), "0.5s is plenty")
	case e.Config != nil && limit < e.Config.Policy.Timeout:
		e.warn("envoy", fmt.Sprintf("%s: it waits %s for an answer, and the policy may take %s: Envoy then refuses in its own words", name, limit, e.Config.Policy.Timeout), "wait longer than policy.timeout")
	}
}

// lookAtCluster looks whether there is one, and whether it speaks HTTP/2.
func (e *envoyWiring) lookAtCluster(name, cluster string) {
	if cluster == "" {
		return // google_grpc
	}
	var found node
	eachObject(e.all, func(n node) {
		if n.text("name") == cluster && (n["load_assignment"] != nil || n["type"] != nil || n["typed_extension_protocol_options"] != nil || n["eds_cluster_config"] != nil) {
			found = n
		}
	})
	if found == nil {
		e.problem("envoy", fmt.Sprintf("%s: there is no cluster %q", name, cluster), "name the one that leads to Postern")
		return
	}
	http2 := found["http2_protocol_options"] != nil
	eachObject(map[string]any(found), func(n node) { http2 = http2 || n["http2_protocol_options"] != nil })
	if !http2 {
		e.problem("envoy", fmt.Sprintf("cluster %q does not speak HTTP/2, which gRPC needs", cluster), "add http2_protocol_options, as deploy/envoy/envoy.yaml does")
	}
}

// lookAtHeaders looks whether credentials get as far as Postern.
func (e *envoyWiring) lookAtHeaders(name string, c node) {
	allowed, hidden := c.object("allowed_headers"), c.object("disallowed_headers")
	for _, field := range e.credentialFields() {
		if len(allowed.list("patterns")) > 0 && !matched(allowed, field) {
			e.problem("envoy", fmt.Sprintf("%s: allowed_headers keeps %s from Postern, so that it cannot see credentials there", name, field), "add it, or remove allowed_headers")
		}
		if matched(hidden, field) {
			e.problem("envoy", fmt.Sprintf("%s: disallowed_headers keeps %s from Postern, so that it cannot see credentials there", name, field), "remove it there")
		}
	}
}

// matched reports whether a ListStringMatcher has the field.
func matched(list node, field string) bool {
	return slices.ContainsFunc(list.list("patterns"), func(p node) bool {
		fold := func(s string) string {
			if p.truth("ignore_case") {
				return strings.ToLower(s)
			}
			return s
		}
		switch {
		case p["exact"] != nil:
			return fold(p.text("exact")) == field
		case p["prefix"] != nil:
			return strings.HasPrefix(field, fold(p.text("prefix")))
		case p["suffix"] != nil:
			return strings.HasSuffix(field, fold(p.text("suffix")))
		case p["contains"] != nil:
			return strings.Contains(field, fold(p.text("contains")))
		case p["safe_regex"] != nil:
			re, err := regexp.Compile(`^(?:` + p.object("safe_regex").text("regex") + `)$`)
			return err != nil || re.MatchString(field)
		}
		return true // of a form that is not known here: nothing is claimed
	})
}

// wantsCertificates reports whether what a gateway says of clients' certificates counts.
func wantsCertificates(cfg *server.Config) bool {
	return cfg.MTLS != nil && slices.ContainsFunc(cfg.Callers, func(c server.Caller) bool { return slices.Contains(c.Trust, server.TrustSourcePrincipal) })
}

// lookAtBodies compares what is forwarded of bodies with what is read of them.
func (e *envoyWiring) lookAtBodies(name string, c node) {
	body := c.object("with_request_body")
	switch most := int64(body.number("max_request_bytes")); {
	case body == nil && e.bodies:
		e.problem("envoy", name+": the policy reads bodies, and with_request_body is not set: it sees none", "set with_request_body")
	case body == nil:
	case most > int64(e.Config.Request.Limits.MaxBodyBytes):
		e.warn("envoy", fmt.Sprintf("%s: it forwards %d bytes of a body, and request.limits.max_body_bytes refuses more than %d", name, most, e.Config.Request.Limits.MaxBodyBytes), "make them the same")
	case !e.bodies:
		e.ok("envoy", "%s: bodies are forwarded, and the policy reads none of them", name)
	}
}

// lookAtRoutes names the routes on which nobody is asked.
func (e *envoyWiring) lookAtRoutes() {
	eachObject(e.all, func(n node) {
		per := n.object("typed_per_filter_config").object(filterExtAuthz)
		if per == nil {
			return
		}
		if !per.truth("disabled") && !per.object("config").truth("disabled") {
			return
		}
		where := n.text("name")
		if match := n.object("match"); match != nil {
			for _, kind := range []string{"path", "prefix", "path_separated_prefix"} {
				if text := match.text(kind); text != "" {
					where = kind + " " + text
				}
			}
			if match.text("prefix") == "/" {
				e.problem("envoy", "ext_authz is disabled on the route of prefix /, that is, everywhere", "remove disabled")
				return
			}
		}
		if slices.Contains(n.texts("request_headers_to_remove"), "x-auth-principal") {
			e.ok("envoy", "nobody is asked about the route of %s, which takes away what clients say about themselves", where)
			return
		}
		e.warn("envoy", fmt.Sprintf("nobody is asked about the route of %s, and what clients say about themselves reaches the service", where), "right for health checks; then add request_headers_to_remove, as deploy/envoy/envoy.yaml does")
	})
}
