package introspect_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/introspect"
	"github.com/postern-auth/postern/server/jose"
)

// Every mistake is reported at its field, and all at once.
func TestConfig(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*introspect.Config)
		path   string
	}{
		"nowhere":             {func(c *introspect.Config) { c.URL = "" }, "url"},
		"http":                {func(c *introspect.Config) { c.URL = "http://issuer.test/" }, "url"},
		"user in the URL":     {func(c *introspect.Config) { c.URL = "https://a:b@issuer.test/" }, "url"},
		"metadata service":    {func(c *introspect.Config) { c.URL = "https://169.254.169.254/" }, "url"},
		"issuer is no URL":    {func(c *introspect.Config) { c.URL, c.Issuer = "", "issuer" }, "issuer"},
		"issuer with space":   {func(c *introspect.Config) { c.Issuer = " https://issuer.test" }, "issuer"},
		"no client":           {func(c *introspect.Config) { c.ClientID = "" }, "client_id"},
		"no secret":           {func(c *introspect.Config) { c.ClientSecret = policy.Secret{} }, "auth"},
		"post without secret": {func(c *introspect.Config) { c.Auth, c.ClientSecret = "client_secret_post", policy.Secret{} }, "client_secret"},
		"key without file":    {func(c *introspect.Config) { c.Auth, c.ClientSecret = "private_key_jwt", policy.Secret{} }, "key_file"},
		"secret besides key":  {func(c *introspect.Config) { c.Auth, c.KeyFile = "private_key_jwt", "key.pem" }, "client_secret"},
		"key besides secret":  {func(c *introspect.Config) { c.KeyFile = "key.pem" }, "key_file"},
		"kid besides secret":  {func(c *introspect.Config) { c.KeyID = "k" }, "key_id"},
		"aud besides secret":  {func(c *introspect.Config) { c.AssertionAudience = "x" }, "assertion_audience"},
		"tls without cert":    {func(c *introspect.Config) { c.Auth, c.ClientSecret = "tls_client_auth", policy.Secret{} }, "http.client_cert_file"},
		"cert without key":    {func(c *introspect.Config) { c.HTTP.ClientCertFile = "x" }, "http.client_cert_file"},
		"token with newline": {func(c *introspect.Config) {
			c.Auth, c.ClientSecret, c.BearerToken = "bearer", policy.Secret{}, policy.NewSecret("a\nb")
		}, "bearer_token"},
		"unknown auth":    {func(c *introspect.Config) { c.Auth = "none" }, "auth"},
		"no audience":     {func(c *introspect.Config) { c.Audiences = nil }, "audiences"},
		"any and another": {func(c *introspect.Config) { c.Audiences = []string{"any", "orders"} }, "audiences"},
		"empty audience":  {func(c *introspect.Config) { c.Audiences = []string{""} }, "audiences[0]"},
		"empty client":    {func(c *introspect.Config) { c.Clients = []string{"a", ""} }, "clients[1]"},
		"empty prefix":    {func(c *introspect.Config) { c.Prefixes = []string{""} }, "prefixes[0]"},
		"long tokens":     {func(c *introspect.Config) { c.MaxTokenBytes = 1 << 20 }, "max_token_bytes"},
		"skew":            {func(c *introspect.Config) { c.ClockSkew = time.Hour }, "clock_skew"},
		"concurrency":     {func(c *introspect.Config) { c.MaxConcurrent = -1 }, "max_concurrent"},
		"required claim":  {func(c *introspect.Config) { c.RequiredClaims = make([]jose.ClaimPath, 1) }, "required_claims[0]"},
		"kind":            {func(c *introspect.Config) { c.Kind = "anonymous" }, "kind"},
		"assurance":       {func(c *introspect.Config) { c.Assurance = 5 }, "assurance"},
		"passes a secret": {func(c *introspect.Config) { c.Pass = []string{"refresh_token"} }, "pass[0]"},
		"passes nothing":  {func(c *introspect.Config) { c.Pass = []string{""} }, "pass[0]"},
		"ttl":             {func(c *introspect.Config) { c.Cache.MaxTTL = time.Hour }, "cache.max_ttl"},
		"negative":        {func(c *introspect.Config) { c.Cache.Negative = time.Hour }, "cache.negative"},
		"stale":           {func(c *introspect.Config) { c.Cache.StaleFor = 2 * time.Hour }, "cache.stale_for"},
		"timeout":         {func(c *introspect.Config) { c.HTTP.Timeout = time.Hour }, "http.timeout"},
		"constraints":     {func(c *introspect.Config) { c.Constraints = &policy.Constraints{Methods: []string{"get"}} }, "constraints.methods[0]"},
	} {
		c := config()
		c.SetDefaults()
		tt.change(&c)
		var paths []string
		c.Check(func(path, message, _ string) { paths = append(paths, path) })
		if !slices.Contains(paths, tt.path) || len(paths) != 1 {
			t.Errorf("%s: reported at %v, want %s", name, paths, tt.path)
		}
		if _, err := introspect.New(c, introspect.Deps{}); err == nil && !strings.HasPrefix(name, "no ") {
			t.Errorf("%s: accepted", name)
		} else if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "query-secret")) {
			t.Errorf("%s: %v shows a secret", name, err)
		}
	}
}

// The defaults are what the fields say, also where they follow from others.
func TestDefaults(t *testing.T) {
	t.Parallel()
	c := config()
	c.SetDefaults()
	c.Check(func(path, message, _ string) { t.Errorf("%s %s", path, message) })
	if c.ClockSkew != 30*time.Second || c.HTTP.Timeout != 500*time.Millisecond || c.MaxConcurrent != 64 || c.Method != policy.MethodOAuth || c.Assurance != 3 ||
		c.Cache != (introspect.Cache{MaxTTL: 30 * time.Second, Negative: 5 * time.Second}) {
		t.Errorf("%+v", c)
	}
	cache := c.CacheConfig()
	if cache.MaxTTL != c.Cache.MaxTTL || cache.NegativeTTL != c.Cache.Negative || cache.StaleFor != 0 || cache.Timeout <= c.HTTP.Timeout {
		t.Errorf("%+v", cache)
	}
	a := made(t, &issuer{}, config())
	if s := a.Status(); s.Issuer != issuerURL || s.Endpoint != issuerURL+"/introspect" || !s.Usable {
		t.Errorf("%+v", s)
	}
}

// Files that are missing or hold something else are named, and not shown.
func TestFiles(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "garbage": "hush-hush", "certificate": "-----BEGIN CERTIFICATE-----\naHVzaC1odXNo\n-----END CERTIFICATE-----\n",
		"broken": "-----BEGIN PRIVATE KEY-----\naHVzaC1odXNo\n-----END PRIVATE KEY-----\n", "too long": strings.Repeat("x", 1<<20),
	} {
		c := config()
		c.ClientSecret = policy.Secret{}
		c.KeyFile = "/nonexistent/key.pem"
		if name != "empty" {
			c.KeyFile = pathTo(t, text)
		}
		_, err := introspect.New(c, introspect.Deps{})
		if err == nil || !strings.Contains(err.Error(), "key_file") || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
