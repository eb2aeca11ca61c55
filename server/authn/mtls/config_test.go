package mtls_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/mtls"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Each mistake is reported with its field; none is without consequence.
func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change func(*mtls.Config)
		want   string
	}{
		{func(c *mtls.Config) { c.Bundles = nil }, "mtls.bundles: at least one is required"},
		{func(c *mtls.Config) { c.Bundles[0].Name = "" }, "mtls.bundles[0].name: must be printable"},
		{func(c *mtls.Config) { c.Bundles[0].Name = "forwarded" }, `mtls.bundles[0].name: "forwarded" could be taken for another issuer`},
		{func(c *mtls.Config) { c.Bundles[0].Name = "spiffe://a" }, `mtls.bundles[0].name: "spiffe://a" could be taken`},
		{func(c *mtls.Config) { c.Bundles = append(c.Bundles, c.Bundles[0]) }, `mtls.bundles[1].name: "prod" is there twice`},
		{func(c *mtls.Config) { c.Bundles[0].TrustDomain = "spiffe://prod.test" }, "mtls.bundles[0].trust_domain: "},
		{func(c *mtls.Config) { c.Bundles[0].TrustDomain = "PROD.test" }, "mtls.bundles[0].trust_domain: "},
		{func(c *mtls.Config) { c.Bundles[0].File = "" }, "mtls.bundles[0].file: is empty"},
		{func(c *mtls.Config) { c.Bundles[0].TrustDomain = "" }, "mtls.identities: has spiffe, and no bundle is of a trust domain; set trust_domain"},
		{func(c *mtls.Config) { c.Identities = []mtls.Identity{} }, "mtls.identities: is empty"},
		{func(c *mtls.Config) { c.Identities = []mtls.Identity{"cn"} }, `mtls.identities[0]: "cn" is not one of spiffe, uri, dns, fingerprint`},
		{func(c *mtls.Config) { c.Identities = []mtls.Identity{"dns", "dns"} }, "mtls.identities[1]: is there twice"},
		{func(c *mtls.Config) { c.Kind = "anonymous" }, "mtls.kind: must be"},
		{func(c *mtls.Config) { c.CRLFiles = []strictyaml.Path{""} }, "mtls.crl_files[0]: is empty"},
		{func(c *mtls.Config) { c.RequireCRL = true }, "mtls.require_crl: nobody could be verified"},
		{func(c *mtls.Config) { c.MaxLifetime = -time.Second }, "mtls.max_lifetime: "},
		{func(c *mtls.Config) { c.MaxChain = 11 }, "mtls.max_chain: must be between 1 and 10"},
		{func(c *mtls.Config) { c.MaxElements = -1 }, "mtls.max_elements: must be between 1 and 100"},
		{func(c *mtls.Config) { c.Principals = []mtls.Principal{{}} }, `mtls.principals[0].match: "" is no pattern`},
		{func(c *mtls.Config) { c.Principals = []mtls.Principal{{Match: "spiffe://other.test/**"}} }, `mtls.principals[0].match: no bundle is of trust domain "other.test"`},
		{func(c *mtls.Config) { c.Principals = []mtls.Principal{{Match: "spiffe://prod.test/**", ID: "x"}} }, "mtls.principals[0].id: would give several workloads one id"},
		{func(c *mtls.Config) { c.Principals = []mtls.Principal{{Match: "*.a.test", ID: "x"}} }, "mtls.principals[0].id: would give several"},
		{func(c *mtls.Config) { c.Principals = []mtls.Principal{{Match: "a.test", ID: " x"}} }, "mtls.principals[0].id: has white space"},
		{func(c *mtls.Config) { c.Principals = []mtls.Principal{{Match: "a.test"}, {Match: "a.test"}} }, `mtls.principals[1].match: "a.test" is there twice`},
		{func(c *mtls.Config) { c.Principals = []mtls.Principal{{Match: "a.test", Kind: "king"}} }, "mtls.principals[0].kind: must be"},
		{func(c *mtls.Config) { c.Principals = []mtls.Principal{{Match: "a.test", Roles: []string{"a b"}}} }, "mtls.principals[0].roles[0]: is empty or holds white space"},
		{func(c *mtls.Config) {
			c.Principals = []mtls.Principal{{Match: "a.test", Constraints: &policy.Constraints{Methods: []string{"get"}}}}
		}, "mtls.principals[0].constraints.methods[0]: "},
	} {
		cfg := config()
		c.change(&cfg)
		_, err := mtls.New(cfg, (&world{now: noon}).deps())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	for _, bad := range []string{
		"spiffe://prod.test", "spiffe://prod.test/", "spiffe://prod.test/a/", "spiffe://prod.test//a", "spiffe://prod.test/a%20", "spiffe://prod.test/a*",
		"spiffe://prod.test/**/a", "spiffe://*/a", "SPIFFE://prod.test/a", "spiffe://prod.test/../a", "https://*.test/", "https://", "://a", "CN=web", "*", "*.", "a b",
		"A.test", "10.0.0.1", "sha256:", "sha256:" + strings.Repeat("AB", 32), strings.Repeat("ab", 31) + ".test/",
	} {
		cfg := config()
		cfg.Principals = []mtls.Principal{{Match: bad}}
		if err := strictyaml.Check("", cfg.Check); err == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
}

// The zero configuration is no configuration, and the defaults are those that the fields
// state.
func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	var cfg mtls.Config
	if err := strictyaml.Check("", cfg.Check); err == nil {
		t.Error("without bundles")
	}
	cfg.SetDefaults()
	if len(cfg.Identities) != 1 || cfg.Identities[0] != mtls.IdentitySPIFFE || cfg.Kind != policy.KindService || cfg.MaxChain != 4 || cfg.MaxElements != 10 || cfg.InsecureAcceptNames {
		t.Errorf("%+v", cfg)
	}
}

// The page's configuration is one.
func TestPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "mtls.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for part := range strings.SplitSeq(string(page), "```yaml\n") {
		block, _, _ := strings.Cut(part, "```")
		at := strings.Index("\n"+block, "\nmtls:")
		if at < 0 {
			continue
		}
		found++
		section, more := block[at:], ""
		for line := range strings.Lines(section) { // up to the next section
			if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "mtls:") {
				break
			}
			more += line
		}
		var file struct {
			MTLS mtls.Config `yaml:"mtls"`
		}
		if err := strictyaml.Decode("mtls.md", []byte(more), &file); err != nil {
			t.Error(err)
		}
		if err := strictyaml.Check("mtls.", file.MTLS.Check); err != nil {
			t.Error(err)
		}
	}
	if found == 0 {
		t.Error("the page has no configuration")
	}
}
