package bundle_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

// What a configuration may not say. The zero value says nothing, and is refused.
func TestConfig(t *testing.T) {
	t.Parallel()
	if _, err := bundle.New(context.Background(), bundle.Config{}, bundle.Deps{Engine: &rego.Engine{}}); err == nil {
		t.Error("a source of nothing")
	}
	const key = "keys: [{id: k, secret: '${env:LONG}'}]\n"
	environment := strictyaml.WithEnv(func(name string) (string, bool) {
		secret, ok := map[string]string{"LONG": "0123456789abcdef0123456789abcdef", "SHORT": "hush"}[name]
		return secret, ok
	})
	for name, c := range map[string]struct{ text, says string }{
		"good":              {key + "bundles: [{name: a/b, url: 'https://x.test/b', poll: {wait: 30s}}]\nmax_age: 10m", ""},
		"good file":         {"bundles: [{name: a, file: b.tar.gz}]", ""},
		"good oci":          {key + "bundles: [{name: a, oci: 'ghcr.io/org/policy:1.0'}]", ""},
		"unsigned":          {"bundles: [{name: a, url: 'https://x.test/b'}]", "no key to verify"},
		"unsigned, said":    {"bundles: [{name: a, url: 'https://x.test/b', verify: {insecure_skip: true}}]", ""},
		"nowhere":           {"bundles: [{name: a}]", "exactly one of"},
		"twice somewhere":   {key + "bundles: [{name: a, url: 'https://x.test/b', file: b}]", "exactly one of"},
		"user in url":       {key + "bundles: [{name: a, url: 'https://u@x.test/b'}]", "no http or https URL"},
		"odd scheme":        {key + "bundles: [{name: a, url: 'file:///b'}]", "no http or https URL"},
		"plaintext":         {key + "bundles: [{name: a, url: 'http://x.test/b', credentials: {bearer: '${env:SHORT}'}}]", "in plaintext"},
		"plaintext, said":   {key + "bundles: [{name: a, url: 'http://x.test/b', insecure_http: true, credentials: {bearer: '${env:SHORT}'}}]", ""},
		"two credentials":   {key + "bundles: [{name: a, url: 'https://x.test/b', credentials: {bearer: '${env:SHORT}', bearer_file: x}}]", "several kinds"},
		"for a file":        {"bundles: [{name: a, file: b, credentials: {bearer: '${env:SHORT}'}}]", "shown to nobody"},
		"names twice":       {"bundles: [{name: a, file: b}, {name: a, file: c}]", "stands twice"},
		"odd name":          {"bundles: [{name: ../a, file: b}]", "no name"},
		"hot poll":          {"bundles: [{name: a, file: b, poll: {min: 1ms}}]", "at least 1s"},
		"poll backwards":    {"bundles: [{name: a, file: b, poll: {min: 2m, max: 1m}}]", "at least min"},
		"wait on a file":    {"bundles: [{name: a, file: b, poll: {wait: 30s}}]", "with url only"},
		"odd wait":          {key + "bundles: [{name: a, url: 'https://x.test/b', poll: {wait: 1500ms}}]", "whole seconds"},
		"young":             {key + "bundles: [{name: a, url: 'https://x.test/b'}]\nmax_age: 1m", "asked for every 2m0s"},
		"odd reference":     {key + "bundles: [{name: a, oci: policy}]", "registry's host"},
		"odd digest":        {key + "bundles: [{name: a, oci: 'ghcr.io/org/policy@sha256:12'}]", "digest"},
		"s3 without region": {key + "bundles: [{name: a, url: 'https://x.test/b', credentials: {s3: {from: metadata}}}]", "region"},
		"odd exclude":       {"bundles: [{name: a, file: b, verify: {exclude: ['[']}}]", "no pattern"},
		"limits":            {"bundles: [{name: a, file: b}]\nlimits: {files: -1}", "from 1 to"},
		"key":               {"bundles: [{name: a, file: b}]\nkeys: [{id: k, secret: '${env:SHORT}'}]", "less than 32 bytes"},
		"unknown":           {"bundles: [{name: a, file: b, polling: 1}]", "polling"},
	} {
		var config bundle.Config
		err := strictyaml.Decode("postern.yaml", []byte(c.text), &config, environment)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the secret is told: %v", name, err)
		}
		if c.says == "" && err == nil {
			s, err := bundle.New(context.Background(), config, bundle.Deps{Engine: &rego.Engine{}})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			s.Close()
		}
	}
}

// Every kind of credentials is one that OPA's client takes.
func TestCredentials(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]bundle.Credentials{
		"oauth2":       {OAuth2: &bundle.OAuth2{TokenURL: "https://id.test/token", ClientID: "postern", ClientSecret: policy.NewSecret("hush")}},
		"environment":  {S3: &bundle.S3{}},
		"metadata":     {S3: &bundle.S3{From: bundle.S3Metadata, Region: "eu-central-1"}},
		"profile":      {S3: &bundle.S3{From: bundle.S3Profile, Region: "eu-central-1", Profile: "x"}},
		"gcp":          {GCP: &bundle.GCP{Scopes: []string{"https://www.googleapis.com/auth/devstorage.read_only"}}},
		"gcp identity": {GCP: &bundle.GCP{Audience: "https://x.test"}},
		"azure":        {Azure: &bundle.Azure{Resource: "https://storage.azure.com/"}},
	} {
		s, err := bundle.New(context.Background(), bundle.Config{Bundles: []bundle.Bundle{{
			Name: "b", URL: "https://bundles.test/b", Credentials: c, Verify: bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}},
		}}}, bundle.Deps{Engine: &rego.Engine{}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s.Close()
		if text := fmt.Sprintf("%+v %#v", c, c); strings.Contains(text, "hush") {
			t.Errorf("%s: the secret is printed: %s", name, text)
		}
	}
}

const opaFile = `
services:
  acme:
    url: https://control.acme.test/
    credentials: {bearer: {token: "${TOKEN}"}}
    tls: {ca_cert: /etc/ca.pem}
  images: {url: "https://ghcr.io", type: oci}
labels: {app: shop}
keys:
  k1: {algorithm: RS256, key: /keys/k1.pem}
  k2: {algorithm: HS256, key: 0123456789abcdef0123456789abcdef}
bundles:
  authz:
    service: acme
    resource: bundles/authz.tar.gz
    persist: true
    polling: {min_delay_seconds: 10, max_delay_seconds: 20, long_polling_timeout_seconds: 30}
    signing: {keyid: k1, scope: read}
  images: {service: images, resource: "ghcr.io/acme/policy:1"}
  local: {resource: "file:///srv/b.tar.gz"}
persistence_directory: /var/opa
decision_logs:
  service: acme
  partition_name: prod
  mask_decision: /system/log/mask
  reporting: {min_delay_seconds: 5, max_delay_seconds: 10}
status: {service: acme}
plugins:
  envoy_ext_authz_grpc: {addr: ":9292", path: shop/authz/allow}
default_decision: other/allow
`

// A configuration file of OPA says the same here.
func TestFromOPA(t *testing.T) {
	t.Parallel()
	getenv := func(name string) string { return map[string]string{"TOKEN": "hush"}[name] }
	got, err := bundle.FromOPA("opa.yaml", []byte(opaFile), getenv)
	must(t, err)
	bearer := bundle.Credentials{Bearer: policy.NewSecret("hush")}
	want := &bundle.Translation{
		Config: bundle.Config{
			Persist: "/var/opa",
			Bundles: []bundle.Bundle{
				{
					Name: "authz", URL: "https://control.acme.test/bundles/authz.tar.gz", Credentials: bearer, CAFile: "/etc/ca.pem",
					Poll:   bundle.Poll{Min: 10 * time.Second, Max: 20 * time.Second, Wait: 30 * time.Second},
					Verify: bundle.Verify{Scope: "read", Keys: []bundle.Key{{ID: "k1", Algorithm: "RS256", File: "/keys/k1.pem"}}},
				},
				{Name: "images", OCI: "ghcr.io/acme/policy:1", Verify: bundle.Verify{InsecureSkip: true}},
				{Name: "local", File: "/srv/b.tar.gz"},
			},
		},
		Entrypoint: "data.shop.authz.allow", Listen: ":9292", Labels: map[string]string{"app": "shop"},
		DecisionLog: &bundle.Report{URL: "https://control.acme.test/logs/prod", Credentials: bearer, CAFile: "/etc/ca.pem",
			Mask: "/system/log/mask", MinDelay: 5 * time.Second, MaxDelay: 10 * time.Second},
		Status: &bundle.Report{URL: "https://control.acme.test/status", Credentials: bearer, CAFile: "/etc/ca.pem"},
		Notes:  []string{"opa.yaml:19: bundle images has no signing: its signature is not verified (insecure_skip)"},
	}
	secrets := cmp.Comparer(func(a, b policy.Secret) bool { return a.Reveal() == b.Reveal() })
	if d := cmp.Diff(want, got, secrets); d != "" {
		t.Error(d)
	}
}

// What cannot be had is an error with its line, all at once, and never a secret.
func TestFromOPARefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"discovery: {resource: x}":                                     "opa.yaml:1: discovery is not supported",
		"services:\n  a: {url: x, type: ftp}":                          `opa.yaml:2: a service of type "ftp" is not supported`,
		"bundles:\n  a:\n    service: nowhere":                         `opa.yaml:3: bundle a names the service "nowhere", which there is not`,
		"bundles:\n  a:\n    resource: file:///x\n    trigger: manual": `opa.yaml:4: trigger "manual" is not supported`,
		"services:\n  a:\n    url: x\n    allow_insecure_tls: true":    "opa.yaml:4: allow_insecure_tls is not supported",
		"services:\n  a:\n    credentials:\n      plugin: mine":        "opa.yaml:4: credentials.plugin is not supported",
		"plugins: {envoy_ext_authz_grpc: {dry-run: true}}":             "dry-run allows everything",
		"labels: {}\nlabels: {}":                                       "stands twice",
		"a: [":                                                         "is not YAML",
		"":                                                             "is empty",
		"[]":                                                           "is no object",
		"x: 1\ny: 2":                                                   "opa.yaml:1: x is not supported\nopa.yaml:2: y is not supported",
		"a: ${TOKEN}: [":                                               "is not YAML",
	} {
		_, err := bundle.FromOPA("opa.yaml", []byte(text), func(string) string { return "hunter2: :" })
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzFromOPA(f *testing.F) {
	f.Add([]byte(opaFile))
	f.Add([]byte("bundles: [{name: a, resource: file:///x}]"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _ = bundle.FromOPA("opa.yaml", text, func(string) string { return "x" })
	})
}
