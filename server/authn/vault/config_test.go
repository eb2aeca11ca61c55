package vault_test

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/vault"
	"github.com/postern-auth/postern/server/strictyaml"
)

func good() vault.Config {
	cfg := vault.Config{Address: address, Login: vault.Login{AppRole: &vault.AppRole{RoleID: "r", SecretID: policy.NewSecret("never-shown")}}}
	cfg.SetDefaults()
	return cfg
}

// Each mistake is reported where it is, and New refuses it too.
func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	for path, mistakes := range map[string][]set{
		"address": {
			func(c *vault.Config) { c.Address = "" },
			func(c *vault.Config) { c.Address = "vault.test:8200" },
			func(c *vault.Config) { c.Address = "http://vault.test:8200" },
			func(c *vault.Config) { c.Address = "https://user:pass@vault.test" },
			func(c *vault.Config) { c.Address = "https://169.254.169.254" },
			func(c *vault.Config) { c.Address = address + "/?x=1" },
			func(c *vault.Config) { c.Address = address + "/v1/" },
		},
		"namespace": {inside("a//b"), inside("../x"), inside("a b"), inside("a\r\nX-Y: z")},
		"mode":      {func(c *vault.Config) { c.Mode = "guess" }},
		"login": {
			func(c *vault.Config) { c.Login = vault.Login{} },
			func(c *vault.Config) { c.Login.Token = policy.NewSecret("never-shown") },
			func(c *vault.Config) { c.Mode = vault.LookupSelf },
		},
		"login.approle.role_id":  {func(c *vault.Config) { c.Login.AppRole.RoleID = "" }},
		"login.approle.mount":    {func(c *vault.Config) { c.Login.AppRole.Mount = "../sys" }},
		"login.cert.cert_file":   {func(c *vault.Config) { c.Login = vault.Login{Cert: &vault.Cert{KeyFile: "k"}} }},
		"login.cert.key_file":    {func(c *vault.Config) { c.Login = vault.Login{Cert: &vault.Cert{CertFile: "c"}} }},
		"login.kubernetes.role":  {func(c *vault.Config) { c.Login = vault.Login{Kubernetes: &vault.Kubernetes{}} }},
		"login.kubernetes.mount": {func(c *vault.Config) { c.Login = vault.Login{Kubernetes: &vault.Kubernetes{Role: "r", Mount: "a/"}} }},
		"check_entity":           {func(c *vault.Config) { self(c); c.CheckEntity = true }},
		"accept_limited_use":     {func(c *vault.Config) { self(c); c.AcceptLimitedUse = true }},
		"prefixes":               {func(c *vault.Config) { c.Prefixes = []string{} }},
		"prefixes[1]":            {func(c *vault.Config) { c.Prefixes = []string{"s.", "hvr."} }},
		"namespace_ids[0]":       {func(c *vault.Config) { c.NamespaceIDs = []string{"a/b"} }},
		"namespaces":             {listed([]string{}...)},
		"namespaces[0]":          {listed("a*"), listed("/a"), listed("/*")},
		"paths":                  {paths([]string{}...)},
		"paths[0]":               {paths("*"), paths("auth/*/login"), paths("auth/user*"), paths("")},
		"roles": {
			func(c *vault.Config) { c.Roles = map[string][]string{"Admin": {"x"}} },
			func(c *vault.Config) { c.Roles = map[string][]string{"root": {"x"}} },
			func(c *vault.Config) { c.Roles = map[string][]string{"a": {""}} },
			func(c *vault.Config) { c.Roles = map[string][]string{"": {"x"}} },
		},
		"scopes":               {func(c *vault.Config) { c.Scopes = map[string][]string{"a": {"two words"}} }},
		"id":                   {func(c *vault.Config) { c.ID = "name" }, func(c *vault.Config) { c.ID = "metadata." }, func(c *vault.Config) { c.ID = "namespace_path" }},
		"tenant":               {func(c *vault.Config) { c.Tenant = "entity_id" }},
		"kind":                 {func(c *vault.Config) { c.Kind = "anonymous" }},
		"assurance":            {func(c *vault.Config) { c.Assurance = 5 }, func(c *vault.Config) { c.Assurance = -1 }},
		"timeout":              {func(c *vault.Config) { c.Timeout = time.Minute }, func(c *vault.Config) { c.Timeout = -1 }},
		"ttl_cap":              {func(c *vault.Config) { c.TTLCap = 2 * time.Hour }},
		"stale_for":            {func(c *vault.Config) { c.StaleFor = -1 }},
		"constraints.networks": {func(c *vault.Config) { c.Constraints = &policy.Constraints{Networks: parsePrefixes()} }},
	} {
		for i, mistake := range mistakes {
			cfg := good()
			login := *cfg.Login.AppRole
			cfg.Login.AppRole = &login
			mistake(&cfg)
			var found []string
			cfg.Check(func(at, message, suggestion string) {
				found = append(found, at)
				if message == "" || strings.Contains(message+suggestion, "never-shown") || strings.Contains(message+suggestion, "pass@") {
					t.Errorf("%s[%d]: message %q, suggestion %q", path, i, message, suggestion)
				}
			})
			if !reflect.DeepEqual(found, []string{path}) {
				t.Errorf("%s[%d]: reported at %v", path, i, found)
			}
			if _, err := vault.New(cfg, vault.Deps{}); err == nil || strings.Contains(err.Error(), "never-shown") {
				t.Errorf("%s[%d]: New says %v", path, i, err)
			}
		}
	}
}

// The zero Config refuses all it can, and its defaults are what the documentation says.
func TestDefaults(t *testing.T) {
	t.Parallel()
	cfg := good()
	cfg.Check(func(path, message, _ string) { t.Errorf("%s: %s", path, message) })
	if !cfg.AcceptBatch || !cfg.IdentityPolicies || cfg.TTLCap != 5*time.Second || cfg.StaleFor != 0 || cfg.Timeout != 500*time.Millisecond ||
		cfg.Mode != vault.Lookup || cfg.Kind != policy.KindService || cfg.Method != policy.MethodVault || cfg.Assurance != 2 {
		t.Errorf("%+v", cfg)
	}
	if c := cfg.Cache(); c.MaxTTL != 5*time.Second || c.NegativeTTL != 2*time.Second || c.StaleFor != 0 || c.Timeout != 6*time.Second {
		t.Errorf("cache %+v", c)
	}
	zero := vault.Config{}
	if c := zero.Cache(); c.MaxTTL != 1 || c.NegativeTTL != 1 {
		t.Errorf("ttl_cap 0 is kept for %s and %s", c.MaxTTL, c.NegativeTTL)
	}
	if _, err := vault.New(vault.Config{}, vault.Deps{}); err == nil {
		t.Error("the zero Config works")
	}
	if text := fmt.Sprintf("%+v %#v", cfg, cfg.Login.AppRole); strings.Contains(text, "never-shown") {
		t.Error("a configuration shows its secret")
	}
}

func TestOverlap(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		a, b set
		want bool
	}{
		"the same":          {func(*vault.Config) {}, func(*vault.Config) {}, true},
		"another method":    {func(*vault.Config) {}, func(c *vault.Config) { c.Method = "vault_eu" }, false},
		"other prefixes":    {prefixed("s.", "b."), prefixed("hvs."), false},
		"common prefixes":   {prefixed("s.", "b."), prefixed("b.", "hvs."), true},
		"one has all":       {prefixed("s."), func(*vault.Config) {}, true},
		"other namespaces":  {owning("root"), owning("a1B2c3"), false},
		"common namespaces": {owning("root", "x"), owning("x"), true},
	} {
		one, two, third := good(), good(), good()
		test.a(&one)
		test.b(&two)
		third.Method = "third"
		i, j, found := vault.Overlap([]vault.Config{third, one, two})
		if found != test.want || found && (i != 1 || j != 2) {
			t.Errorf("%s: %d, %d, %v", name, i, j, found)
		}
	}
}

func prefixed(all ...string) set { return func(c *vault.Config) { c.Prefixes = all } }

func owning(all ...string) set { return func(c *vault.Config) { c.NamespaceIDs = all } }

// The configuration in the documentation is one.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/vault.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(text), "```yaml\n")
	block, _, closed := strings.Cut(block, "```")
	if !found || !closed {
		t.Fatal("no configuration")
	}
	from := strings.Index(block, "vault:\n")
	section := block[from:]
	if end := strings.Index(section, "\npolicy:"); end >= 0 {
		section = section[:end+1]
	}
	var doc struct {
		Vault []vault.Config `yaml:"vault"`
	}
	files := func(string) ([]byte, error) { return []byte("secret"), nil }
	if err := strictyaml.Decode("vault.md", []byte(section), &doc, strictyaml.WithFiles(files)); err != nil {
		t.Fatal(err)
	}
	if len(doc.Vault) != 1 {
		t.Fatal(doc.Vault)
	}
	doc.Vault[0].Check(func(path, message, _ string) { t.Errorf("%s: %s", path, message) })
}
