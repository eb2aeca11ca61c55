package jwt_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/jwt"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/vectortest"
)

const goodSecret = "9f2c4e7a1b8d3056c4e7a1b8d30569f2c"

// Each mistake is reported at its field, and none shows the secret.
func TestConfigCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*jwt.Config)
		want   string
	}{
		"good":                   {func(*jwt.Config) {}, ""},
		"no url":                 {func(c *jwt.Config) { c.URL = "" }, "url"},
		"url with a user":        {func(c *jwt.Config) { c.URL = "https://a:b@example.com" }, "url"},
		"url with a space":       {func(c *jwt.Config) { c.URL += " " }, "url"},
		"no audience":            {func(c *jwt.Config) { c.Audiences = nil }, "audiences"},
		"empty audience":         {func(c *jwt.Config) { c.Audiences = []string{""} }, "audiences[0]"},
		"any and another":        {func(c *jwt.Config) { c.Audiences = []string{"any", "x"} }, "audiences"},
		"none":                   {func(c *jwt.Config) { c.Algorithms = []string{"none"} }, "algorithms[0]"},
		"twice":                  {func(c *jwt.Config) { c.Algorithms = []string{"RS256", "RS256"} }, "algorithms[1]"},
		"HS256 without a secret": {func(c *jwt.Config) { c.Algorithms = []string{"RS256", "HS256"} }, "algorithms[1]"},
		"RS256 with a secret":    {withSecret(goodSecret, "HS256", "RS256"), "algorithms[1]"},
		"a secret by itself":     {withSecret(goodSecret), "algorithms"},
		"HS256 and a secret":     {withSecret(goodSecret, "HS256"), ""},
		"31 bytes":               {withSecret(goodSecret[:31], "HS256"), "secret"},
		"repeated":               {withSecret(strings.Repeat("ab", 32), "HS256"), "secret"},
		"publicly known":         {withSecret("th1s1s0n3l0ngf*ck1ns3cr3ty07sh07ldn0tr3v3al", "HS256"), "secret"},
		"not base64url": {func(c *jwt.Config) {
			withSecret("+"+goodSecret, "HS256")(c)
			c.SecretEncoding = jwt.EncodingBase64URL
		}, "secret"},
		"unknown encoding": {func(c *jwt.Config) {
			withSecret(goodSecret, "HS256")(c)
			c.SecretEncoding = "hex"
		}, "secret"},
		"secret_id alone":       {func(c *jwt.Config) { c.SecretID = "x" }, "secret_id"},
		"two sources":           {func(c *jwt.Config) { c.JWKS, c.JWKSFile = "https://x.example/jwks", "f" }, ""},
		"jwks is a path":        {func(c *jwt.Config) { c.JWKS = "/etc/jwks.json" }, "jwks"},
		"jwks with a user":      {func(c *jwt.Config) { c.JWKS = "https://a:b@x.example" }, "jwks"},
		"skew of an hour":       {func(c *jwt.Config) { c.ClockSkew = time.Hour }, "clock_skew"},
		"skew of 5 minutes":     {func(c *jwt.Config) { c.ClockSkew = 5 * time.Minute }, ""},
		"negative skew":         {func(c *jwt.Config) { c.ClockSkew = -1 }, "clock_skew"},
		"negative lifetime":     {func(c *jwt.Config) { c.MaxLifetime = -1 }, "max_lifetime"},
		"a megabyte":            {func(c *jwt.Config) { c.MaxTokenBytes = 1 << 20 }, "max_token_bytes"},
		"no bytes":              {func(c *jwt.Config) { c.MaxTokenBytes = 0 }, "max_token_bytes"},
		"no skew":               {func(c *jwt.Config) { c.ClockSkew = 0 }, ""},
		"a secret and defaults": {func(c *jwt.Config) { c.Secret = policy.NewSecret(goodSecret) }, "algorithms"},
		"an hour of one digit": {func(c *jwt.Config) {
			c.Constraints = &policy.Constraints{Windows: []policy.TimeWindow{{From: "08:00", To: "9:00"}}}
		}, "constraints.windows[0]"},
		"a method in small letters": {func(c *jwt.Config) { c.Constraints = &policy.Constraints{Methods: []string{"get"}} }, "constraints.methods[0]"},
		"unknown types":             {func(c *jwt.Config) { c.TokenTypes = "all" }, "token_types"},
		"assurance 0":               {func(c *jwt.Config) { c.Assurance = 0 }, "assurance"},
		"assurance 5":               {func(c *jwt.Config) { c.Assurance = 5 }, "assurance"},
		"anonymous":                 {func(c *jwt.Config) { c.Kind = policy.KindAnonymous }, "kind"},
		"a password":                {func(c *jwt.Config) { c.Pass = []string{"email", "password"} }, "pass[1]"},
		"empty required claims":     {func(c *jwt.Config) { c.RequiredClaims = make([]jwt.ClaimPath, 1) }, "required_claims[0]"},
		"a client of nothing":       {func(c *jwt.Config) { c.Clients = []string{""} }, "clients[0]"},
	} {
		config := jwt.Config{URL: issuerURL, Audiences: []string{"orders"}}
		config.SetDefaults()
		c.change(&config)
		var paths []string
		config.Check(func(path, message, suggestion string) {
			paths = append(paths, path)
			if message == "" || strings.Contains(message+suggestion, goodSecret) {
				t.Errorf("%s: %s", name, message)
			}
		})
		if c.want == "" && name != "two sources" && len(paths) > 0 || c.want != "" && !slices.Contains(paths, c.want) {
			t.Errorf("%s: complaints about %q", name, paths)
		}
		if name == "two sources" && !slices.Equal(paths, []string{""}) {
			t.Errorf("%s: complaints about %q", name, paths)
		}
	}
}

func withSecret(secret string, algorithms ...string) func(*jwt.Config) {
	return func(c *jwt.Config) { c.Secret, c.Algorithms = policy.NewSecret(secret), algorithms }
}

// New reports all faults of all issuers at once, and shows no secret.
func TestNewReportsEverything(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("hunter2-", 2)
	_, err := jwt.New([]jwt.Config{
		{URL: "https://a.example.com", Audiences: []string{"x"}, Algorithms: []string{"HS256"}, Secret: policy.NewSecret(secret)},
		{URL: "https://b.example.com", ClockSkew: time.Hour},
		{URL: "https://c.example.com", Audiences: []string{"x"}},
	}, jwt.Deps{})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"a.example.com", "32", "b.example.com", "audiences", "clock_skew", "c.example.com", "no keys"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v says nothing of %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows the secret: %v", err)
	}
	set, _ := jose.NewKeySet()
	twice := jwt.Config{URL: issuerURL, Audiences: []string{"x"}}
	if _, err := jwt.New([]jwt.Config{twice, twice}, jwt.Deps{Keys: map[string]jose.Keys{issuerURL: set}}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the same issuer twice: %v", err)
	}
}

// J-02: secrets that everybody knows are no secrets.
func TestKnownSecrets(t *testing.T) {
	t.Parallel()
	n := 0
	for line := range strings.Lines(string(vectortest.Read(t, "strings/jwt.secrets.list"))) {
		secret := strings.TrimRight(line, "\r\n")
		c := jwt.Config{URL: issuerURL, Audiences: []string{"x"}, Algorithms: []string{"HS256"}, Secret: policy.NewSecret(secret)}
		n++
		if secret == "" {
			continue
		}
		refused := false
		c.Check(func(path, _, _ string) { refused = refused || path == "secret" })
		if !refused {
			t.Errorf("a known secret of %d bytes is accepted", len(secret))
		}
	}
	if n < 100_000 {
		t.Errorf("%d secrets", n)
	}
}

func TestClaimPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	claims := map[string]any{
		"a": map[string]any{"b": "a.b", "b/c": "slash", "~": "tilde"}, "a.b": "dotted", "https://x.example/r": "url", "": "nothing",
	}
	for text, want := range map[string]string{
		"a.b": "a.b", "/a/b": "a.b", "/a.b": "dotted", "/a/b~1c": "slash", "/a/~0": "tilde", "https://x.example/r": "url",
	} {
		p := path(t, text)
		a := w.authenticator(t, func(c *jwt.Config) { c.Claims.Tenant = p })
		if got := mustProve(t, a, w.token(t, claims)).Principal.Tenant; got != want || p.String() != text {
			t.Errorf("%s: %q", text, got)
		}
	}
	for _, text := range []string{"", "/", "a.", ".a", "a..b", "//", "/a/", "/a~2", "/a~"} {
		var p jwt.ClaimPath
		if err := p.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is a path: %v", text, fmt.Sprint(p))
		}
	}
}
