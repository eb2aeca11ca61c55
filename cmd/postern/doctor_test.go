package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/server"
)

// examined is what the doctor says, a line for each finding, to a command line.
func examined(t testing.TB, args ...string) (out string, status int) {
	t.Helper()
	return examinedWith(t, "", args...)
}

// examinedWith is that with something on standard input.
func examinedWith(t testing.TB, stdin string, args ...string) (out string, status int) {
	t.Helper()
	var text strings.Builder
	cmd := doctorCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&text)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(args)
	switch err := cmd.ExecuteContext(t.Context()).(type) {
	case nil:
		return text.String(), exitOK
	case *exitError:
		return text.String(), err.status
	default:
		return text.String() + err.Error(), exitFault
	}
}

// sampleOfEnvoy is deploy/envoy/envoy.yaml, with edits of exactly one place each.
func sampleOfEnvoy(t testing.TB, edits ...string) string {
	t.Helper()
	sample, err := os.ReadFile(filepath.Join(repository, "deploy", "envoy", "envoy.yaml"))
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

// Each mistake in a configuration of Envoy's is found, and nothing in the sample is one.
func TestDoctorReadsEnvoy(t *testing.T) {
	t.Parallel()
	w := prepare(t, "forwardauth")
	w.mint(t, order{id: "alice"})
	const bodies = `with_request_body: { max_request_bytes: %s, allow_partial_message: true }`
	for name, c := range map[string]struct {
		edits []string
		want  string // part of a finding; empty for none that is bad
	}{
		"the sample":                {nil, ""},
		"fails open":                {[]string{"failure_mode_allow: false", "failure_mode_allow: true"}, "problem  envoy     listener ingress: failure_mode_allow lets every request through"},
		"version 2":                 {[]string{"transport_api_version: V3\n", "transport_api_version: V2\n"}, "problem  envoy     listener ingress: transport_api_version is not V3"},
		"no version":                {[]string{"                      transport_api_version: V3\n", ""}, "transport_api_version is not V3"},
		"a status that is none":     {[]string{"status_on_error: { code: ServiceUnavailable }", "status_on_error: { code: OK }"}, "status_on_error 200 is no refusal"},
		"a number for it":           {[]string{"status_on_error: { code: ServiceUnavailable }", "status_on_error: { code: 302 }"}, "status_on_error 302 is no refusal"},
		"joined fields":             {[]string{"encode_raw_headers: true", "encode_raw_headers: false"}, "warning  envoy     listener ingress: encode_raw_headers is off"},
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
		"asks nobody":               {[]string{"name: envoy.filters.http.ext_authz\n                    typed_config", "name: envoy.filters.http.other\n                    typed_config", "ext_authz.v3.ExtAuthz\n                      transport", "other.v3.Other\n                      transport"}, "problem  envoy     none of 1 connection managers asks anybody"},
		"another name":              {[]string{"name: envoy.filters.http.ext_authz\n                    typed_config", "name: my-authz\n                    typed_config"}, ""},
		"HTTP service":              {[]string{"grpc_service:\n                        envoy_grpc: { cluster_name: postern }\n                        timeout: 0.5s", "http_service: { path_prefix: / }"}, "http_service is not a protocol of Postern's"},
		"a part only":               {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      filter_enabled: { default_value: { numerator: 50, denominator: HUNDRED } }"}, "filter_enabled lets a part of the requests through"},
		"all of it":                 {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      filter_enabled: { default_value: { numerator: 1000000, denominator: MILLION } }"}, ""},
		"disabled":                  {[]string{"  - name: envoy.filters.http.ext_authz\n", "  - name: envoy.filters.http.ext_authz\n                    disabled: true\n"}, "the filter is disabled"},
		"a route that asks nobody":  {[]string{"                          request_headers_to_remove:\n                            - x-auth-principal\n", "                          request_headers_to_remove:\n"}, "warning  envoy     nobody is asked about the route of path /healthz"},
		"all routes":                {[]string{"match: { path: /healthz }", "match: { prefix: / }"}, "problem  envoy     ext_authz is disabled on the route of prefix /"},
		"after the router":          {[]string{"http_filters:\n", "http_filters:\n                  - name: envoy.filters.http.router\n"}, "envoy.filters.http.router comes before ext_authz"},
		"Lua behind it":             {[]string{"                  - name: envoy.filters.http.router\n", "                  - name: envoy.filters.http.lua\n                  - name: envoy.filters.http.router\n"}, "envoy.filters.http.lua comes after ext_authz"},
		"credentials kept back":     {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      allowed_headers: { patterns: [{ exact: x-request-id }] }"}, "allowed_headers keeps x-api-key from Postern"},
		"credentials let through":   {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      allowed_headers: { patterns: [{ prefix: X-, ignore_case: true }, { safe_regex: { regex: 'auth.*' } }] }"}, ""},
		"credentials hidden":        {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      disallowed_headers: { patterns: [{ exact: authorization }] }"}, "disallowed_headers keeps authorization"},
		"bodies that are too large": {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      " + fmt.Sprintf(bodies, "2097152")}, "forwards 2097152 bytes of a body"},
		"bodies":                    {[]string{"encode_raw_headers: true", "encode_raw_headers: true\n                      " + fmt.Sprintf(bodies, "65536")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "envoy.yaml")
			text := sampleOfEnvoy(t, c.edits...)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, status := examined(t, "-c", w.path("postern.yaml"), "--offline", "--envoy-config", file)
			checkExamined(t, out, status, c.want)

			// The same from a running Envoy's admin listener, where numbers may be texts.
			var parsed any
			if err := yaml.Unmarshal([]byte(text), &parsed); err != nil {
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
			defer admin.Close()
			d := doctor{config: w.path("postern.yaml"), envoyAdmin: admin.URL, now: time.Now, output: "table"}
			d.timeout = time.Minute
			if d.cfg, err = server.LoadConfig(d.config); err != nil {
				t.Fatal(err)
			}
			cmd := &cobra.Command{}
			cmd.SetContext(t.Context())
			d.lookAtEnvoy(cmd)
			var said strings.Builder
			_ = d.report(&said)
			checkExamined(t, said.String(), -1, c.want)
		})
	}
}

// checkExamined looks for a finding, or that there is nothing bad about Envoy.
func checkExamined(t testing.TB, out string, status int, want string) {
	t.Helper()
	if want != "" && !strings.Contains(out, want) {
		t.Errorf("it does not say %q but:\n%s", want, out)
	}
	problems := strings.Contains(out, "problem ")
	if status >= 0 && (status == exitDeny) != problems {
		t.Errorf("it exits with %d:\n%s", status, out)
	}
	for line := range strings.Lines(out) {
		if want == "" && strings.Contains(line, " envoy ") && !strings.HasPrefix(line, "ok ") {
			t.Errorf("it says %q", line)
		}
	}
}

// What is no configuration of Envoy's is said to be none, and nothing panics.
func TestDoctorReadsNonsense(t *testing.T) {
	t.Parallel()
	w := prepare(t, "forwardauth")
	w.mint(t, order{id: "alice"})
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
		if out, status := examined(t, "-c", w.path("postern.yaml"), "--offline", "--envoy-config", file); status != exitDeny || !strings.Contains(out, want) {
			t.Errorf("%q: %d %s", text, status, out)
		}
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if out, _ := examined(t, "-c", w.path("postern.yaml"), "--server", "127.0.0.1:1", "--envoy-admin", other.URL, "--timeout", "5s"); !strings.Contains(out, "is no configuration (status 404)") {
		t.Error(out)
	}
}

// Who else can read secrets, or change what decides.
func TestDoctorLooksAtFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, w world)
		want   string
	}{
		"as it should be":      {func(*testing.T, world) {}, ""},
		"a readable secret":    {func(t *testing.T, w world) { chmod(t, w.path("pepper"), 0o644) }, "everybody on this machine can read"},
		"writable keys":        {func(t *testing.T, w world) { chmod(t, w.path("keys.yaml"), 0o666) }, "api_keys.file: everybody on this machine can change"},
		"a writable policy":    {func(t *testing.T, w world) { chmod(t, w.path("policy/authz.rego"), 0o666) }, "policy.path: everybody on this machine can change"},
		"a writable directory": {func(t *testing.T, w world) { chmod(t, string(w), 0o777) }, "everybody on this machine can replace"},
		"behind a closed door": {func(t *testing.T, w world) { chmod(t, w.path("pepper"), 0o666); chmod(t, string(w), 0o700) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := prepare(t, "forwardauth")
			w.mint(t, order{id: "alice"})
			chmod(t, string(w), 0o755)
			for _, of := range []string{"pepper", "keys.yaml", "postern.yaml"} {
				chmod(t, w.path(of), 0o600)
			}
			if !reachable(w.path("pepper")) {
				t.Skip("nobody else can come as far as the directory of this test")
			}
			c.change(t, w)
			out, _ := examined(t, "-c", w.path("postern.yaml"), "--offline")
			if c.want == "" && !strings.Contains(out, "ok       files") || c.want != "" && !strings.Contains(out, c.want) {
				t.Error(out)
			}
		})
	}
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// Certificates that have ended, will soon, or are no chain.
func TestDoctorLooksAtCertificates(t *testing.T) {
	t.Parallel()
	ca, key := examinedCA(t)
	leaf := examinedLeaf(t, ca, key)
	for name, c := range map[string]struct {
		at   time.Time
		want string
	}{
		"good":    {leaf.NotBefore.Add(time.Minute), "is good until"},
		"soon":    {leaf.NotAfter.Add(-time.Hour), "ends at"},
		"over":    {leaf.NotAfter.Add(time.Hour), "has ended at"},
		"not yet": {leaf.NotBefore.Add(-time.Hour), "is not good before"},
	} {
		d := doctor{now: func() time.Time { return c.at }, output: "table"}
		d.lookAtChain("tls.cert", []*x509.Certificate{leaf, ca})
		var out strings.Builder
		_ = d.report(&out)
		if !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: %s", name, out.String())
		}
	}
	d := doctor{now: func() time.Time { return leaf.NotBefore.Add(time.Minute) }, output: "table"}
	other, _ := examinedCA(t)
	d.lookAtChain("tls.cert", []*x509.Certificate{leaf, other})
	if len(d.found) != 1 || !strings.Contains(d.found[0].Text, "did not sign the one before it") {
		t.Error(d.found)
	}
}

// examinedCA is an authority of a year, and examinedLeaf a certificate of it, of a month.
func examinedCA(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newECKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now(), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return signedCertificate(t, template, template, key, key), key
}

func examinedLeaf(t testing.TB, ca *x509.Certificate, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "postern.test"}, DNSNames: []string{"postern.test"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(30 * 24 * time.Hour),
	}
	return signedCertificate(t, template, ca, newECKey(t), by)
}

func signedCertificate(t testing.TB, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A clock that is off is told, and the second that a Date field leaves open is not.
func TestDoctorLooksAtClocks(t *testing.T) {
	t.Parallel()
	asked := time.Date(2026, 11, 21, 12, 0, 0, 700_000_000, time.UTC)
	for _, c := range []struct {
		off  time.Duration
		want level
	}{{0, ""}, {-time.Second, ""}, {3 * time.Second, ""}, {20 * time.Second, levelWarning}, {-time.Hour, levelProblem}, {time.Hour, levelProblem}} {
		d := doctor{now: func() time.Time { return asked.Add(100 * time.Millisecond) }}
		d.lookAtClock("server", "it", http.Header{"Date": {asked.Add(c.off).Format(http.TimeFormat)}}, asked)
		if c.want == "" && len(d.found) > 0 || c.want != "" && (len(d.found) != 1 || d.found[0].Level != c.want) {
			t.Errorf("%s: %v", c.off, d.found)
		}
	}
}

// A running server: what is not ready, and what only the metrics tell.
func TestDoctorLooksAtMetrics(t *testing.T) {
	t.Parallel()
	d := doctor{now: time.Now}
	d.lookAtMetrics(`# HELP x
postern_store_blind 1
postern_issuer_fetch_failed{issuer="https://a.test"} 1
postern_issuer_fetch_failed{issuer="https://b.test"} 0
postern_trace_failed 0
postern_store_age_seconds 0.2
postern_bundle_checked_seconds{bundle="shop"} 1
postern_policy_activated_seconds 1.7e+09
broken line
`)
	if len(d.found) != 4 || d.found[0].Level != levelProblem || !strings.Contains(d.found[1].Text, `issuer="https://a.test"`) || d.found[2].Level != levelWarning || d.found[3].Level != levelOK {
		t.Errorf("%v", d.found)
	}
	registered := map[string]bool{}
	for _, row := range tableRows(t, "docs/operations.md", "| metric") {
		registered[strings.Trim(row[0], "`")] = true
	}
	for _, a := range alarms {
		if !registered[a.metric] {
			t.Errorf("there is no metric %s", a.metric)
		}
		delete(registered, a.metric)
	}
	for metric := range registered {
		if strings.HasSuffix(metric, "_failed") {
			t.Errorf("the doctor does not look at %s", metric)
		}
	}
}
