package doctor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/policy/rego"
)

// sampleOfEnvoy is deploy/envoy/envoy.yaml, with edits of exactly one place each.
func sampleOfEnvoy(t testing.TB, edits ...string) string {
	t.Helper()
	sample, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "envoy", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(sample)
	for i := 0; i < len(edits); i += 2 {
		if strings.Count(text, edits[i]) != 1 {
			t.Fatalf("the sample holds %q %d times", edits[i], strings.Count(text, edits[i]))
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

// bodies is a setting of ext_authz, of how many bytes.
const bodies = `with_request_body: { max_request_bytes: %s, allow_partial_message: true }`

// envoyMistakes are edits of the sample and what is said about them.
var envoyMistakes = map[string]struct {
	edits []string
	want  string // part of a finding; empty for none that is bad
}{
	"the sample":                {nil, ""},
	"fails open":                {[]string{"failure_mode_allow: false", "failure_mode_allow: true"}, "problem envoy: listener ingress: failure_mode_allow lets every request through"},
	"version 2":                 {[]string{"transport_api_version: V3\n", "transport_api_version: V2\n"}, "problem envoy: listener ingress: transport_api_version is not V3"},
	"no version":                {[]string{"                      transport_api_version: V3\n", ""}, "transport_api_version is not V3"},
	"a status that is none":     {[]string{"status_on_error: { code: ServiceUnavailable }", "status_on_error: { code: OK }"}, "status_on_error 200 is no refusal"},
	"a number for it":           {[]string{"status_on_error: { code: ServiceUnavailable }", "status_on_error: { code: 302 }"}, "status_on_error 302 is no refusal"},
	"joined fields":             {[]string{"encode_raw_headers: true", "encode_raw_headers: false"}, "warning envoy: listener ingress: encode_raw_headers is off"},
	"impatient":                 {[]string{"timeout: 0.5s", "timeout: 0.05s"}, "it waits 50ms for an answer, and the policy may take 500ms"},
	"default patience":          {[]string{"                        timeout: 0.5s\n", ""}, "it waits 200ms"},
	"too patient":               {[]string{"timeout: 0.5s", "timeout: 30s"}, "it waits 30s"},
	"no cluster":                {[]string{"envoy_grpc: { cluster_name: postern }", "envoy_grpc: { cluster_name: other }"}, `there is no cluster "other"`},
	"HTTP/1":                    {[]string{"explicit_http_config: { http2_protocol_options: {} }", "explicit_http_config: { http_protocol_options: {} }"}, `cluster "postern" does not speak HTTP/2`},
	"raw paths":                 {[]string{"normalize_path: true", "normalize_path: false"}, "normalize_path is off"},
	"slashes":                   {[]string{"merge_slashes: true", "merge_slashes: false"}, "merge_slashes is off"},
	"escaped slashes":           {[]string{"path_with_escaped_slashes_action: REJECT_REQUEST", "path_with_escaped_slashes_action: KEEP_UNCHANGED"}, "path_with_escaped_slashes_action keeps %2F"},
	"underscores":               {[]string{"common_http_protocol_options: { headers_with_underscores_action: REJECT_REQUEST }", "common_http_protocol_options: {}"}, "headers_with_underscores_action lets x_auth_principal through"},
	"believes x-forwarded-for":  {[]string{"use_remote_address: true", "use_remote_address: false"}, "use_remote_address is off"},
	"asks nobody":               {[]string{"name: envoy.filters.http.ext_authz\n                    typed_config", "name: envoy.filters.http.other\n                    typed_config", "ext_authz.v3.ExtAuthz\n                      transport", "other.v3.Other\n                      transport"}, "problem envoy: none of 1 connection managers asks anybody"},
	"another name":              {[]string{"name: envoy.filters.http.ext_authz\n                    typed_config", "name: my-authz\n                    typed_config"}, ""},
	"HTTP service":              {[]string{"grpc_service:\n                        envoy_grpc: { cluster_name: postern }\n                        timeout: 0.5s", "http_service: { path_prefix: / }"}, "http_service is not a protocol of Postern's"},
	"a part only":               {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      filter_enabled: { default_value: { numerator: 50, denominator: HUNDRED } }"}, "filter_enabled lets a part of the requests through"},
	"all of it":                 {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      filter_enabled: { default_value: { numerator: 1000000, denominator: MILLION } }"}, ""},
	"disabled":                  {[]string{"  - name: envoy.filters.http.ext_authz\n", "  - name: envoy.filters.http.ext_authz\n                    disabled: true\n"}, "the filter is disabled"},
	"a route that asks nobody":  {[]string{"                          request_headers_to_remove:\n                            - x-auth-principal\n", "                          request_headers_to_remove:\n"}, "warning envoy: nobody is asked about the route of path /healthz"},
	"all routes":                {[]string{"match: { path: /healthz }", "match: { prefix: / }"}, "problem envoy: ext_authz is disabled on the route of prefix /"},
	"after the router":          {[]string{"http_filters:\n", "http_filters:\n                  - name: envoy.filters.http.router\n"}, "envoy.filters.http.router comes before ext_authz"},
	"Lua behind it":             {[]string{"                  - name: envoy.filters.http.router\n", "                  - name: envoy.filters.http.lua\n                  - name: envoy.filters.http.router\n"}, "envoy.filters.http.lua comes after ext_authz"},
	"credentials kept back":     {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      allowed_headers: { patterns: [{ exact: x-request-id }] }"}, "allowed_headers keeps x-api-key from Postern"},
	"credentials let through":   {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      allowed_headers: { patterns: [{ prefix: X-, ignore_case: true }, { safe_regex: { regex: 'auth.*' } }] }"}, ""},
	"credentials hidden":        {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      disallowed_headers: { patterns: [{ exact: authorization }] }"}, "disallowed_headers keeps authorization"},
	"bodies that are too large": {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      " + fmt.Sprintf(bodies, "2097152")}, "forwards 2097152 bytes of a body"},
	"bodies":                    {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      " + fmt.Sprintf(bodies, "65536")}, ""},
}

// Each mistake in a configuration of Envoy's is found, and nothing in the sample is one.
func TestReadsEnvoy(t *testing.T) {
	t.Parallel()
	w := newWiring(t)
	for name, c := range envoyMistakes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := sampleOfEnvoy(t, c.edits...)
			q := w.ask
			q.EnvoyConfig = filepath.Join(t.TempDir(), "envoy.yaml")
			if err := os.WriteFile(q.EnvoyConfig, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			checkEnvoy(t, Examine(t.Context(), q), c.want)

			q.Offline, q.EnvoyConfig, q.EnvoyAdmin, q.Server.Timeout = false, "", runningEnvoy(t, text), time.Minute
			x := &examination{Question: q}
			x.lookAtEnvoy(t.Context())
			checkEnvoy(t, x.found, c.want)
		})
	}
}

// runningEnvoy is the URL of an admin listener that shows a configuration as Envoy does.
func runningEnvoy(t testing.TB, config string) string {
	t.Helper()
	var parsed any
	if err := yaml.Unmarshal([]byte(config), &parsed); err != nil {
		t.Fatal(err)
	}
	dump, err := json.Marshal(map[string]any{"configs": []any{map[string]any{"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": parsed}}})
	if err != nil {
		t.Fatal(err)
	}
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/config_dump" {
			_, _ = w.Write(dump)
		}
	}))
	t.Cleanup(admin.Close)
	return admin.URL
}

// checkEnvoy looks for a finding, or that there is nothing bad about Envoy.
func checkEnvoy(t testing.TB, found []Finding, want string) {
	t.Helper()
	if text := lines(found); !strings.Contains(text, want) {
		t.Errorf("it does not say %q but:\n%s", want, text)
	}
	about := 0
	for _, f := range found {
		if f.About != "envoy" {
			continue
		}
		about++
		if want == "" && f.Level != OK {
			t.Errorf("it says %v", f)
		}
	}
	if about == 0 {
		t.Error("it says nothing about Envoy")
	}
}

// What is no configuration of Envoy's is said to be none, and nothing panics.
func TestReadsNonsense(t *testing.T) {
	t.Parallel()
	w := newWiring(t)
	for text, want := range map[string]string{
		"":                     "is no configuration",
		"[1, 2]":               "is no configuration",
		"a: [":                 "neither YAML nor JSON",
		"{}":                   "there is no HTTP connection manager",
		"http_filters: 7":      "asks anybody",
		"http_filters: [1, a]": "asks anybody",
		"http_filters: [{name: envoy.filters.http.ext_authz, typed_config: 7}]":                                                                   "transport_api_version",
		"http_filters: [{name: envoy.filters.http.ext_authz, typed_config: {grpc_service: [], status_on_error: {code: [1]}, filter_enabled: x}}]": "filter_enabled",
	} {
		file := filepath.Join(t.TempDir(), "envoy.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		q := w.ask
		q.EnvoyConfig = file
		if found := Examine(t.Context(), q); Worst(found) != Problem || !strings.Contains(lines(found), want) {
			t.Errorf("%q: %s", text, lines(found))
		}
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	x := &examination{Question: Question{EnvoyAdmin: other.URL}}
	x.Server.Timeout = time.Minute
	if x.lookAtEnvoy(t.Context()); len(x.found) != 1 || !strings.Contains(x.found[0].Text, "is no configuration (status 404)") {
		t.Error(x.found)
	}
}

// A policy that reads bodies needs them; of one that reads everything, or cannot be read
// itself, nothing is claimed.
func TestBodiesThatThePolicyReads(t *testing.T) {
	t.Parallel()
	reads := func(path ...string) func() *rego.Analysis {
		return func() *rego.Analysis { return &rego.Analysis{Paths: []rego.Path{{Ref: path}}} }
	}
	for name, c := range map[string]struct {
		policy func() *rego.Analysis
		want   bool
	}{
		"unknown":    {nil, false},
		"broken":     {func() *rego.Analysis { return nil }, false},
		"everything": {func() *rego.Analysis { return &rego.Analysis{Whole: true, Paths: []rego.Path{{}}} }, false},
		"paths":      {reads("request", "path"), false},
		"a member":   {reads("parsed_body", "model"), true},
		"raw":        {reads("attributes", "request", "http", "raw_body"), true},
	} {
		w := newWiring(t)
		w.ask.Policy, w.ask.EnvoyConfig = c.policy, filepath.Join("..", "..", "..", "deploy", "envoy", "envoy.yaml")
		if text := lines(Examine(t.Context(), w.ask)); strings.Contains(text, "the policy reads bodies, and with_request_body is not set") != c.want {
			t.Errorf("%s: %s", name, text)
		}
	}
}
