package workload_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/workload"
	"github.com/postern-auth/postern/server/jose"
)

// Each mistake is reported at its field.
func TestConfigCheck(t *testing.T) {
	t.Parallel()
	type Config = workload.Config
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":                     {func(*Config) {}, ""},
		"nothing":                  {func(c *Config) { *c = Config{} }, ""},
		"negative skew":            {func(c *Config) { c.ClockSkew = -1 }, "clock_skew"},
		"skew of an hour":          {func(c *Config) { c.ClockSkew = time.Hour }, "clock_skew"},
		"no skew":                  {func(c *Config) { c.ClockSkew = 0 }, ""},
		"small memory":             {func(c *Config) { c.ReplaySize = 1 }, "replay_size"},
		"no audience for a client": {func(c *Config) { c.Audiences, c.TrustDomains = nil, nil }, "audiences"},
		"no audience for a domain": {func(c *Config) { c.Audiences, c.Clients = nil, nil }, "trust_domains[0].audiences"},
		"audiences of a domain":    {func(c *Config) { c.Audiences, c.Clients, c.TrustDomains[0].Audiences = nil, nil, []string{"x"} }, ""},
		"empty audience":           {func(c *Config) { c.Audiences = []string{""} }, "audiences[0]"},
		"any audience":             {func(c *Config) { c.Audiences = []string{"orders", "any"} }, "audiences[1]"},
		"no trust domain":          {func(c *Config) { c.TrustDomains[0].Name = "" }, "trust_domains[0].name"},
		"trust domain with scheme": {func(c *Config) { c.TrustDomains[0].Name = "spiffe://prod.example.com" }, "trust_domains[0].name"},
		"trust domain in capitals": {func(c *Config) { c.TrustDomains[0].Name = "Prod" }, "trust_domains[0].name"},
		"trust domain with path":   {func(c *Config) { c.TrustDomains[0].Name = "prod/a" }, "trust_domains[0].name"},
		"trust domain twice":       {func(c *Config) { c.TrustDomains = append(c.TrustDomains, c.TrustDomains[0]) }, "trust_domains[1].name"},
		"no bundle":                {func(c *Config) { c.TrustDomains[0].BundleFile = "" }, "trust_domains[0].bundle_file"},
		"two bundles":              {func(c *Config) { c.TrustDomains[0].BundleURL = "https://x.example/" }, "trust_domains[0].bundle_url"},
		"a bundle's path as URL":   {func(c *Config) { c.TrustDomains[0].BundleFile, c.TrustDomains[0].BundleURL = "", "/bundle" }, "trust_domains[0].bundle_url"},
		"a bundle URL with a user": {func(c *Config) {
			c.TrustDomains[0].BundleFile, c.TrustDomains[0].BundleURL = "", "https://a:b@x.example/"
		}, "trust_domains[0].bundle_url"},
		"SVIDs for two days":        {func(c *Config) { c.TrustDomains[0].MaxLifetime = 48 * time.Hour }, "trust_domains[0].max_lifetime"},
		"users with SVIDs":          {func(c *Config) { c.TrustDomains[0].Kind = policy.KindUser }, "trust_domains[0].kind"},
		"a tenant of spaces":        {func(c *Config) { c.TrustDomains[0].Tenant = " " }, "trust_domains[0].tenant"},
		"constraints without limit": {func(c *Config) { c.TrustDomains[0].Constraints = &policy.Constraints{Methods: []string{}} }, "trust_domains[0].constraints.methods"},
		"keys kept too short":       {func(c *Config) { c.TrustDomains[0].Keys.KeepStale = time.Second }, "trust_domains[0].keys.keep_stale"},
		"no id":                     {func(c *Config) { c.Clients[0].ID = "" }, "clients[0].id"},
		"an id with a line end":     {func(c *Config) { c.Clients[0].ID = "a\n" }, "clients[0].id"},
		"a SPIFFE id":               {func(c *Config) { c.Clients[0].ID = "Spiffe://prod.example.com/a" }, "clients[0].id"},
		"an id twice":               {func(c *Config) { c.Clients[1].ID = c.Clients[0].ID }, "clients[1].id"},
		"no keys":                   {func(c *Config) { c.Clients[0].JWKSFile = "" }, "clients[0].jwks_file"},
		"keys in two places":        {func(c *Config) { c.Clients[0].JWKS = "https://x.example/" }, "clients[0].jwks"},
		"HS256":                     {func(c *Config) { c.Clients[0].Algorithms = []string{"HS256"} }, "clients[0].algorithms[0]"},
		"an algorithm twice":        {func(c *Config) { c.Clients[0].Algorithms = []string{"ES256", "ES256"} }, "clients[0].algorithms[1]"},
		"tokens for two hours":      {func(c *Config) { c.Clients[0].MaxLifetime = 2 * time.Hour }, "clients[0].max_lifetime"},
		"a negative lifetime":       {func(c *Config) { c.Clients[0].MaxLifetime = -1 }, "clients[0].max_lifetime"},
		"a user":                    {func(c *Config) { c.Clients[0].Kind = policy.KindUser }, "clients[0].kind"},
		"an empty role":             {func(c *Config) { c.Clients[0].Roles = []string{"a", ""} }, "clients[0].roles[1]"},
		"scopes in one text":        {func(c *Config) { c.Clients[0].Scopes = []string{"read write"} }, "clients[0].scopes[0]"},
	} {
		cfg := config()
		cfg.TrustDomains, cfg.Clients = slices.Clone(cfg.TrustDomains), slices.Clone(cfg.Clients)
		c.change(&cfg)
		var paths []string
		cfg.Check(func(path, message, _ string) {
			if paths = append(paths, path); message == "" {
				t.Errorf("%s: no message", name)
			}
		})
		if got := strings.Join(paths, " "); got != c.want {
			t.Errorf("%s: reported %q, want %q", name, got, c.want)
		}
		keys := map[string]jose.Keys{}
		for source := range cfg.Sources() {
			keys[source] = &jose.KeySet{}
		}
		if _, err := workload.New(cfg, workload.Deps{Keys: keys}); (err != nil) != (c.want != "") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := workload.New(config(), workload.Deps{}); err == nil || !strings.Contains(err.Error(), "spiffe://prod.example.com has no keys") {
		t.Errorf("without keys: %v", err)
	}
}

// What is configured is where the keys are looked for.
func TestSources(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.Clients[1].JWKSFile, cfg.Clients[1].JWKS, cfg.Clients[1].Keys.Refresh = "", "https://batch.example.com/jwks", time.Hour
	for name, want := range map[string]jose.SourceConfig{
		"spiffe://prod.example.com": {Issuer: "spiffe://prod.example.com", File: "bundle.json", Bundle: true},
		agent:                       {Issuer: agent, File: "planner.json"},
		"batch":                     {Issuer: "batch", URL: "https://batch.example.com/jwks", Refresh: time.Hour},
	} {
		got := cfg.Sources()[name]
		if got.Issuer != want.Issuer || got.File != want.File || got.URL != want.URL || got.Bundle != want.Bundle || got.Refresh != want.Refresh {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
