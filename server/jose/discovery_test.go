package jose

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
)

func discoveryDocument(issuer, keys string) string {
	return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"authorization_endpoint":"https://attacker.test/"}`, issuer, keys)
}

// routes answers by URL, everything else with 404.
func routes(pages map[string]string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		if body, ok := pages[r.URL.String()]; ok {
			return publish(body)(r)
		}
		return status(404, "")(r)
	}
}

// O-01: keys are found by both kinds of discovery, with and without a path, and
// found again when the issuer moves them.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	for at, issuerURL := range map[string]string{
		"https://i.test/.well-known/openid-configuration":              "https://i.test",
		"https://i.test/.well-known/openid-configuration?":             "https://i.test/",
		"https://i.test/a/b/.well-known/openid-configuration":          "https://i.test/a/b",
		"https://i.test/a%2Fb/.well-known/openid-configuration":        "https://i.test/a%2Fb/",
		"https://i.test:8443/.well-known/openid-configuration":         "https://i.test:8443",
		"https://i.test/.well-known/oauth-authorization-server":        "https://i.test",
		"https://i.test/.well-known/oauth-authorization-server/a/b":    "https://i.test/a/b",
		"https://i.test/.well-known/oauth-authorization-server/tenant": "https://i.test/tenant/",
	} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				at := strings.TrimSuffix(at, "?")
				origin := strings.Join(strings.SplitN(issuerURL, "/", 4)[:3], "/")
				i := &issuer{answer: routes(map[string]string{
					at:               discoveryDocument(issuerURL, origin+"/k1"),
					origin + "/k1":   setOf(edKey("k1", 1)),
					origin + "/k2?x": setOf(edKey("k2", 2)),
				})}
				s := source(t, i, SourceConfig{Issuer: issuerURL})
				mustFind(t, s, "k1")
				i.will(routes(map[string]string{
					at:               discoveryDocument(issuerURL, origin+"/k2?x"),
					origin + "/k2?x": setOf(edKey("k2", 2)),
				}))
				time.Sleep(time.Minute)
				mustFind(t, s, "k2")
			})
		})
	}
}

// JWKS-24: a document of another issuer, or one that points elsewhere, brings no
// keys, and says why.
func TestDiscoveryRefuses(t *testing.T) {
	t.Parallel()
	const name = "https://i.test"
	google := func(text string) policy.HostPattern {
		p, err := policy.ParseHostPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for what, c := range map[string]struct{ document, want string }{
		"another slash":        {discoveryDocument(name+"/", name+"/k"), "of the issuer"},
		"another case":         {discoveryDocument("https://I.test", name+"/k"), "of the issuer"},
		"no issuer":            {`{"jwks_uri":"https://i.test/k"}`, "of the issuer"},
		"issuer is a list":     {`{"issuer":["https://i.test"],"jwks_uri":"https://i.test/k"}`, "of the issuer"},
		"issuer twice":         {`{"issuer":"https://x.test","issuer":"https://i.test","jwks_uri":"https://i.test/k"}`, "same member twice"},
		"no jwks_uri":          {`{"issuer":"https://i.test"}`, "no jwks_uri"},
		"jwks_uri is null":     {`{"issuer":"https://i.test","jwks_uri":null}`, "no jwks_uri"},
		"another host":         {discoveryDocument(name, "https://attacker.test/k"), "allowed_hosts"},
		"a host below":         {discoveryDocument(name, "https://keys.i.test/k"), "allowed_hosts"},
		"a host that looks it": {discoveryDocument(name, "https://i.test.attacker.test/k"), "allowed_hosts"},
		"another port":         {discoveryDocument(name, "https://i.test:444/k"), "allowed_hosts"},
		"the user's part":      {discoveryDocument(name, "https://i.test@attacker.test/k"), "user name"},
		"loopback":             {discoveryDocument(name, "https://127.0.0.1/k"), "not public"},
		"loopback, IPv6":       {discoveryDocument(name, "https://[::1]/k"), "not public"},
		"loopback, mapped":     {discoveryDocument(name, "https://[::ffff:127.0.0.1]/k"), "not public"},
		"metadata":             {discoveryDocument(name, "https://169.254.169.254/k"), "never"},
		"http":                 {discoveryDocument(name, "http://i.test/k"), "insecure_allow_http"},
		"file":                 {discoveryDocument(name, "file:///etc/passwd"), "not an https URL"},
		"relative":             {discoveryDocument(name, "/k"), "not an https URL"},
		"no scheme":            {discoveryDocument(name, "//i.test/k"), "not an https URL"},
		"an array":             {`[]`, "is an object"},
		"no JSON":              {`<html>`, "malformed"},
	} {
		t.Run("JWKS-24/"+what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{answer: func(r *http.Request) (*http.Response, error) {
					if strings.Contains(r.URL.Path, ".well-known") {
						return publish(c.document)(r)
					}
					return publish(setOf(edKey("k", 1)))(r)
				}}
				s := source(t, i, SourceConfig{Issuer: name, AllowedHosts: []policy.HostPattern{google("www.example.test")}})
				_, err := s.Find(t.Context(), "k", "EdDSA")
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				for _, u := range i.urls {
					if !strings.Contains(u, name+"/.well-known/") {
						t.Errorf("connected to %s", u)
					}
				}
			})
		})
	}
	cfg := &SourceConfig{Issuer: name, AllowedHosts: []policy.HostPattern{google("www.example.test")}}
	for _, good := range []string{name + "/k", "https://i.test:443/k", "https://I.TEST/k", "https://www.example.test/k", "https://www.example.test./k"} {
		if _, err := cfg.discovery().read([]byte(discoveryDocument(name, good)), memberKeys); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	cfg.InsecureAllowHTTP = true
	if _, err := cfg.discovery().read([]byte(discoveryDocument(name, "http://www.example.test/k")), memberKeys); err == nil {
		t.Error("an https issuer may point to http")
	}
}

// A document that goes bad later leaves the keys as they are.
func TestDiscoveryKeepsLastGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const name = "https://i.test"
		i := &issuer{answer: routes(map[string]string{
			name + "/.well-known/openid-configuration": discoveryDocument(name, name+"/k"),
			name + "/k": setOf(edKey("k", 1)),
		})}
		s := source(t, i, SourceConfig{Issuer: name})
		mustFind(t, s, "k")
		i.will(publish(discoveryDocument("https://attacker.test", name+"/k")))
		time.Sleep(time.Hour)
		mustFind(t, s, "k")
		if s.Status().Err == nil {
			t.Error("it does not show")
		}
	})
}

func FuzzDiscovery(f *testing.F) {
	const name = "https://i.test/a"
	for _, keys := range []string{name + "/k", "https://www.example.test/k", "https://i.test@x.test/", "https://127.0.0.1/", "https://i.test:443/%2e%2e", "https://[::1%25eth0]/", "HTTPS://i.test"} {
		f.Add([]byte(discoveryDocument(name, keys)))
	}
	allowed, err := policy.ParseHostPattern("*.example.test")
	if err != nil {
		f.Fatal(err)
	}
	cfg := &SourceConfig{Issuer: name, AllowedHosts: []policy.HostPattern{allowed}}
	f.Fuzz(func(t *testing.T, data []byte) {
		at, err := cfg.discovery().read(data, memberKeys)
		if err != nil {
			return
		}
		host := strings.ToLower(strings.TrimSuffix(at.Hostname(), "."))
		if at.Scheme != "https" || at.User != nil || host != "i.test" && !strings.HasSuffix(host, ".example.test") {
			t.Fatal(at)
		}
	})
}
