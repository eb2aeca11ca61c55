package apikey_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/seal"
)

var update = flag.Bool("update", false, "write the golden files")

// load reads a keys file and returns the error.
func load(file string) (*apikey.Authenticator, error) {
	return apikey.New(
		apikey.Config{Pepper: policy.NewSecret(pepperText), File: "keys.yaml"},
		apikey.Deps{ReadFile: func(string) ([]byte, error) { return []byte(file), nil }},
	)
}

// A file without keys is one, however it says so; one without anything is a
// mistake, such as a copy that did not finish, and so is a denylist that was begun.
func TestNoKeys(t *testing.T) {
	t.Parallel()
	for file, ok := range map[string]bool{
		"keys:\n": true, "keys:": true, "keys:\n# soon\n": true, "keys: []\n": true, "version: 1\nkeys:\n": true,
		"version: 1\n": true, "revocations: []\n": true, "revocations: [{jti: a}]\nkeys:\n": true,
		"": false, "\n": false, "# soon\n": false, "---\n": false,
		"revocations:\n": false, "version:\n": false, "keys: {}\n": false, "keys: ''\n": false, "keys:\nkeys:\n": false,
	} {
		a, err := load(file)
		if (err == nil) != ok {
			t.Errorf("%q: %v", file, err)
		}
		if ok && err == nil && a.Status().Keys != 0 {
			t.Errorf("%q: %d keys", file, a.Status().Keys)
		}
	}
}

// plantedKey is the same key in every run.
func plantedKey(t testing.TB) seal.Minted {
	t.Helper()
	m, err := seal.Mint(mathrand.NewChaCha8([32]byte{'p', 'l', 'a', 'n', 't'}), seal.Spec{Environment: "live"}, peppers(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Each file of testdata/keysfile is a keys file, a line "----", and what is said
// about it: G-09 is wildcard.txt, G-16 constraints.txt, K-07 ages.txt.
func TestKeysFileMistakes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/keysfile/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	planted := plantedKey(t).Secret.Reveal()
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			t.Parallel()
			golden, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(string(golden), "----\n")
			if !ok {
				t.Fatal("no line of dashes")
			}
			got := "ok\n"
			if _, err := load(strings.ReplaceAll(input, "pst_key_live_PLACEHOLDER", planted)); err != nil {
				got = err.Error() + "\n"
			}
			if *update {
				if err := os.WriteFile(name, []byte(input+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A key that stands where a digest belongs, or anywhere else by mistake, is never
// shown, whatever else is wrong in the file.
func TestErrorsNeverShowAKey(t *testing.T) {
	t.Parallel()
	digest := peppers(t).Digest(policy.NewSecret("x")).String()
	for _, key := range []string{foreignKey, "31415926535897932384", "a secret, with spaces: and # signs", "sha256:" + foreignKey, "pst_key_live_0a1B2c3D4e5F_cut0ff", "${x}" + foreignKey} {
		quoted := fmt.Sprintf("%q", key)
		for _, file := range []string{
			"keys:\n  - id: a\n    digest: KEY\n    principal: {id: b}\n",
			"keys:\n  - id: a\n    digest:\n      KEY\n    principal: {id: b}\n    bad: 1\n",
			"keys:\n  - {id: a, digest: KEY, principal: {id: b}, bad: 1}\n",
			"keys:\n  - {bad: 1, id: a, principal: {id: b},\n     digest: KEY}\n",
			"keys:\n  - id: a\n    digset: KEY\n    principal: {id: b}\n",
			"keys:\n  - id: a\n    digest: [KEY]\n    principal: {id: b}\n",
			"keys:\n  - id: a\n    digest: {value: KEY}\n    principal: {id: b}\n",
			"keys:\n  - id: a\n    digest: KEY\n    digest: KEY\n    principal: {id: b}\n",
			"keys:\n  - id: a\n    secret: KEY\n    principal: {id: b}\n",
			"keys:\n  - {id: KEY, digest: \"" + digest + "\", principal: {id: b}, bad: 1}\n",
			"keys:\n  - id: KEY\n    digest: \"" + digest + "\"\n    principal: {id: b}\n",
			"keys:\n  - id: a\n   digest: KEY\n",
			"keys:\n  - digest: KEY\n  id\n",
			"keys: KEY\n", "keys: [KEY]\n", "KEY\n", "KEY: 1\n", "- KEY\n",
		} {
			for _, text := range []string{quoted, key} {
				if strings.HasPrefix(file, "KEY: ") && strings.Contains(key, " ") {
					continue // a sentence as the name of a field
				}
				src := strings.ReplaceAll(file, "KEY", text)
				_, err := load(src)
				if err == nil {
					t.Errorf("accepted:\n%s", src)
				} else if strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "abc123") {
					t.Errorf("shown in:\n%v\nof:\n%s", err, src)
				}
			}
		}
	}
}

// K-04: a key of our own format is noticed wherever it stands, comments included.
func TestOwnKeysAreFoundAnywhereInTheFile(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{Environment: "live"})
	good := keysFile(entry(t, m))
	for _, file := range []string{
		good + "# " + m.Secret.Reveal() + "\n",
		strings.Replace(good, `"svc-`, `"`+m.Secret.Reveal()+"-", 1),
	} {
		_, err := load(file)
		if err == nil || !strings.Contains(err.Error(), "plain text") || !strings.Contains(err.Error(), m.ID) || strings.Contains(err.Error(), m.Secret.Reveal()[30:]) {
			t.Errorf("%v", err)
		}
	}
}

// What Entry writes is what the file is read as.
func TestEntryIsReadBack(t *testing.T) {
	t.Parallel()
	ps := peppers(t)
	rapid.Check(t, func(t *rapid.T) {
		k := drawKey(t, ps)
		file := keysFile(k)
		keys, err := apikey.ParseKeysFile(file, ps)
		if err != nil {
			t.Fatalf("%v\n%s", err, file)
		}
		same := cmp.Options{cmp.Comparer(sameDigest), cmp.Comparer(samePath), cmp.Comparer(sameHost), cmp.Comparer(samePrefix)}
		if diff := cmp.Diff([]apikey.Key{k}, keys, same); diff != "" {
			t.Fatalf("%s\n%s", diff, file)
		}
		quick, ok := apikey.ReadQuickly(k.Entry())
		if suspicious := regexp.MustCompile(`eyJ|pst_|://|_.{60}|.{60}_`).MatchString(file); !ok && !suspicious {
			t.Fatalf("left to strictyaml:\n%s", k.Entry())
		}
		if diff := cmp.Diff(k, quick, same); ok && diff != "" {
			t.Fatalf("%s\n%s", diff, file)
		}
	})
}

// Whoever mints a key hears before it is shown that the keys file would refuse it,
// and with it all other keys. K-07 for what lives too long, G-09 for wildcards.
func TestValidate(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{Environment: "live"})
	good := func() apikey.Key {
		return entry(t, m, func(k *apikey.Key) {
			k.Name, k.CreatedAt, k.ExpiresAt = "it's 50 % \"done\"", noon, noon.Add(90*24*time.Hour)
		})
	}
	cfg := apikey.Config{Pepper: policy.NewSecret(pepperText)}
	k := good()
	if err := k.Validate(cfg); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*apikey.Key)
		want   string
	}{
		{func(k *apikey.Key) { k.Name = "costs ${5}" }, "name: a reference ${…} is only resolved where a secret belongs"},
		{func(k *apikey.Key) { k.Principal.Metadata = map[string]any{"${x}": 1} }, "a reference ${…}"},
		{func(k *apikey.Key) { k.Owner = "a\u202eb" }, "U+202E is not allowed"},
		{func(k *apikey.Key) { k.Owner = "a\x00" }, "owner: holds a control character"},
		{func(k *apikey.Key) { k.Principal.Tenant = "a\xffb" }, "holds what a keys file cannot"},
		{func(k *apikey.Key) { k.Principal.Metadata = map[string]any{"n": math.NaN()} }, "holds what a keys file cannot"},
		{func(k *apikey.Key) { k.Name = m.Secret.Reveal() }, "the key " + m.ID + " stands here in plain text"},
		{func(k *apikey.Key) { k.Name = "https://u:hunter2@example.com" }, "name: a secret cannot stand in this file"},
		{func(k *apikey.Key) { k.Principal.Roles = []string{"*"} }, `principal.roles[0]: "*" grants what nobody has listed; list what is needed`},
		{func(k *apikey.Key) { k.Principal.ID = "" }, `field "principal" is missing`},
		{func(k *apikey.Key) { k.ExpiresAt = noon.Add(91 * 24 * time.Hour) }, "expires_at: is more than 90 days after created_at"},
		{func(k *apikey.Key) { k.ExpiresAt = noon }, "expires_at: is not after created_at"},
		{func(k *apikey.Key) { k.Constraints = &policy.Constraints{Methods: []string{"get"}} }, `constraints.methods[0]: "get" fits no request`},
		{func(k *apikey.Key) { k.Digest = seal.Digest{} }, "a digest of"},
	} {
		k := good()
		c.change(&k)
		err := k.Validate(cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), m.Secret.Reveal()) {
			t.Errorf("shows a secret: %v", err)
		}
		// What is good by itself breaks no keys file.
		if _, err := load(keysFile(k)); err == nil && !strings.Contains(c.want, "cannot") {
			t.Errorf("a keys file with it is read: %s", c.want)
		}
	}
	k = good()
	if err := k.Validate(apikey.Config{}); err == nil || !strings.Contains(err.Error(), "version 1 of the pepper, which is not configured") {
		t.Errorf("without a pepper: %v", err)
	}
	if err := k.Validate(apikey.Config{Pepper: policy.NewSecret("short")}); err == nil || !strings.Contains(err.Error(), "api_keys") {
		t.Errorf("with a bad pepper: %v", err)
	}
}

func sameDigest(a, b seal.Digest) bool      { return a == b }
func samePath(a, b policy.PathPattern) bool { return a.String() == b.String() }
func sameHost(a, b policy.HostPattern) bool { return a == b }
func samePrefix(a, b netip.Prefix) bool     { return a == b }
func optional[T any](g *rapid.Generator[T]) *rapid.Generator[T] {
	var zero T
	return rapid.OneOf(rapid.Just(zero), g)
}

func drawKey(t *rapid.T, ps *seal.Peppers) apikey.Key {
	text := rapid.StringMatching(`[ -#%-~é世]{0,20}[a-z]`)
	item := rapid.StringMatching(`[a-z:*.0-9\[\]{}#&]{1,10}`)
	items := optional(rapid.SliceOfN(item, 1, 4))
	id := rapid.StringMatching(`[0-9A-Za-z]{12}`).Draw(t, "id")
	created := noon.Add(time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "created")))
	k := apikey.Key{
		ID: id, Digest: ps.Digest(policy.NewSecret(id)),
		Kind: optional(rapid.SampledFrom([]seal.Kind{seal.KindKey, seal.KindPAT})).Draw(t, "kind"),
		Name: optional(text).Draw(t, "name"), Owner: optional(text).Draw(t, "owner"),
		Environment: optional(rapid.StringMatching(`[a-z][a-z0-9]{0,15}`)).Draw(t, "environment"),
		Principal: apikey.Principal{
			ID:     rapid.StringMatching(`[a-z][ -#%-~é世]{0,20}[a-z]`).Draw(t, "principal"),
			Kind:   optional(rapid.SampledFrom([]policy.Kind{policy.KindUser, policy.KindAgent})).Draw(t, "principal kind"),
			Tenant: optional(text).Draw(t, "tenant"),
			Roles:  items.Draw(t, "roles"), Scopes: items.Draw(t, "scopes"), Permissions: items.Draw(t, "permissions"),
			Metadata: optional(rapid.Just(map[string]any{"a": "b", "c": []any{true, json.Number("1")}})).Draw(t, "metadata"),
		},
		AllowWildcard: true,
		CreatedAt:     created,
		NotBefore:     optional(rapid.Just(created)).Draw(t, "not before"),
		ExpiresAt:     optional(rapid.Just(created.Add(time.Hour))).Draw(t, "expires"),
		MaxAge:        optional(rapid.Just(90*time.Minute)).Draw(t, "max age"),
		Disabled:      rapid.Bool().Draw(t, "disabled"),
		ReleasedAt:    optional(rapid.Just(created)).Draw(t, "released"),
	}
	if rapid.Bool().Draw(t, "revoked") {
		k.Revoked = &apikey.Revoked{At: optional(rapid.Just(created)).Draw(t, "revoked at"), Reason: optional(text).Draw(t, "reason")}
	}
	if rapid.Bool().Draw(t, "rotated") {
		k.Rotated = &apikey.Rotated{To: "0123456789AB", At: optional(rapid.Just(created)).Draw(t, "rotated at")}
	}
	if rapid.Bool().Draw(t, "constrained") {
		path, _ := policy.ParsePathPattern("/a/*/**")
		host, _ := policy.ParseHostPattern("*.example.com")
		k.Constraints = &policy.Constraints{
			Networks:   []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
			Methods:    []string{"GET"},
			Hosts:      []policy.HostPattern{host},
			Paths:      []policy.PathPattern{path},
			Resources:  []string{"order:7", "user:*"},
			Peers:      []string{"spiffe://acme/billing", "sha256:" + strings.Repeat("0a", 32)},
			Windows:    []policy.TimeWindow{{Days: []string{"mon"}, From: "00:00", To: "24:00"}, {From: "08:00", To: "17:30"}},
			RequireTLS: rapid.Bool().Draw(t, "tls"),
		}
	}
	return k
}

// G-16: every limit that a keys file can set reaches the proof and limits there.
func TestConstraintsOfTheKeysFile(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	good := policy.Request{Method: "GET", Scheme: "https", Host: "api.example.com", Path: "/orders/7", ClientIP: netip.MustParseAddr("10.1.2.3")}
	order := &policy.Action{ResourceType: "order", ResourceID: "7"}
	peer := &policy.Peer{}
	for _, c := range []struct {
		yaml   string
		change func(*policy.Request)
		want   policy.Reason
	}{
		{"networks: [10.0.0.0/8]", func(q *policy.Request) { q.ClientIP = netip.MustParseAddr("192.0.2.1") }, policy.ReasonNetwork},
		{"methods: [GET]", func(q *policy.Request) { q.Method = "POST" }, policy.ReasonRequestMethod},
		{"hosts: [api.example.com]", func(q *policy.Request) { q.Host = "www.example.com" }, policy.ReasonHost},
		{"paths: [/orders/**]", func(q *policy.Request) { q.Path = "/admin" }, policy.ReasonPath},
		{"require_tls: true", func(q *policy.Request) { q.Scheme = "http" }, policy.ReasonPlaintext},
		{`resources: ["order:7"]`, func(*policy.Request) { order.ResourceID = "8" }, policy.ReasonResource},
		{`peers: [spiffe://acme/billing]`, func(*policy.Request) { peer.ID = "spiffe://acme/other" }, policy.ReasonBinding},
		{`windows: [{from: "11:00", to: "13:00"}]`, nil, policy.ReasonTimeWindow},
	} {
		k := entry(t, m)
		f := newFixture(t, keysFile(k)+"    constraints: {"+c.yaml+"}\n")
		limits := f.prove(keyHeader, m.Secret.Reveal()).Constraints
		order.ResourceID, peer.ID = "7", "spiffe://acme/billing"
		if got := limits.Check(policy.Use{Request: &good, Action: order, Peer: peer, Now: noon}); got != policy.ReasonAllowed {
			t.Errorf("%s: a good request: %v", c.yaml, got)
		}
		q, now := good, noon.Add(2*time.Hour)
		if c.change != nil {
			c.change(&q)
			now = noon
		}
		if got := limits.Check(policy.Use{Request: &q, Action: order, Peer: peer, Now: now}); got != c.want {
			t.Errorf("%s: got %v, want %v", c.yaml, got, c.want)
		}
	}
}

func FuzzKeysFile(f *testing.F) {
	ps := peppers(f)
	m := plantedKey(f)
	k := entry(f, m, func(k *apikey.Key) {
		k.CreatedAt, k.Constraints = noon, &policy.Constraints{Methods: []string{"GET"}}
	})
	f.Add(keysFile(k, importedEntry("legacy", foreignKey)))
	golden, err := filepath.Glob("testdata/keysfile/*.txt")
	if err != nil || len(golden) == 0 {
		f.Fatal(golden, err)
	}
	for _, name := range golden {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		input, _, _ := strings.Cut(string(text), "----\n")
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, file string) {
		keys, err := apikey.ParseKeysFile(file, ps)
		if err != nil {
			return
		}
		// What is accepted can be written down and means the same.
		again, err := apikey.ParseKeysFile(keysFile(keys...), ps)
		if len(keys) == 0 {
			return
		}
		if err != nil {
			t.Fatalf("%v\nafter\n%s", err, file)
		}
		for i := range keys {
			if again[i].Entry() != keys[i].Entry() {
				t.Fatalf("%s\nbecomes\n%s", keys[i].Entry(), again[i].Entry())
			}
		}
	})
}

func decodeJSON(t testing.TB, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}
