package signer_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/signer"
)

const (
	issuer   = "https://auth.example.com"
	upstream = "orders.internal"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// seed is a key of its own for each name.
func seed(name string) []byte {
	b := []byte(strings.Repeat(name+"/", ed25519.SeedSize))
	return b[:ed25519.SeedSize]
}

func keyOf(name string) signer.KeyConfig {
	return signer.KeyConfig{ID: name, Key: policy.NewSecret(hex.EncodeToString(seed(name)))}
}

func newSigner(t testing.TB, change ...func(*signer.Config)) *signer.Signer {
	t.Helper()
	cfg := signer.Config{Issuer: issuer, Keys: []signer.KeyConfig{keyOf("k1")}}
	for _, c := range change {
		c(&cfg)
	}
	s, err := signer.New(cfg, signer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func withKeys(names ...string) func(*signer.Config) {
	return func(c *signer.Config) {
		c.Keys = nil
		for _, n := range names {
			c.Keys = append(c.Keys, keyOf(n))
		}
	}
}

// verify reads a token as an upstream would: with the published keys, strictly.
func verify(set []byte, text string) (*jose.Token, error) {
	keys, warnings, err := jose.ParseKeySet(set)
	if err != nil || len(warnings) > 0 {
		return nil, fmt.Errorf("%v, %w", warnings, err)
	}
	token, err := jose.ParseCompact(text, jose.Limits{Bytes: 1 << 20})
	if err != nil {
		return nil, err
	}
	found, _ := keys.Find(context.Background(), token.KeyID(), token.Algorithm())
	_, err = jose.Verify(token, found, []string{"EdDSA"})
	return token, err
}

func verified(t testing.TB, s *signer.Signer, text string) *jose.Token {
	t.Helper()
	token, err := verify(s.KeySet(), text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func payload(t testing.TB, text string) (claims map[string]any) {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &claims); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return claims
}

func pemOf(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// A key is one key, in whichever form it is written.
func TestFormsOfAKey(t *testing.T) {
	t.Parallel()
	want := newSigner(t).KeySet()
	for name, text := range map[string]string{
		"hex":        hex.EncodeToString(seed("k1")),
		"HEX":        strings.ToUpper(hex.EncodeToString(seed("k1"))),
		"base64url":  base64.RawURLEncoding.EncodeToString(seed("k1")),
		"PEM":        pemOf(t, ed25519.NewKeyFromSeed(seed("k1"))),
		"with a end": "\n" + hex.EncodeToString(seed("k1")) + "\r\n",
	} {
		s := newSigner(t, func(c *signer.Config) { c.Keys[0].Key = policy.NewSecret(text) })
		if diff := cmp.Diff(string(want), string(s.KeySet())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestBadConfigurations(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := hex.EncodeToString(seed("k1"))
	for name, tt := range map[string]struct {
		change func(*signer.Config)
		field  string
		part   string
	}{
		"no issuer":       {func(c *signer.Config) { c.Issuer = "" }, "issuer", "is missing"},
		"no URL":          {func(c *signer.Config) { c.Issuer = "postern" }, "issuer", "is not a URL"},
		"http":            {func(c *signer.Config) { c.Issuer = "http://auth.example.com" }, "issuer", "https://"},
		"a query":         {func(c *signer.Config) { c.Issuer += "?a=b" }, "issuer", "is not a URL"},
		"empty query":     {func(c *signer.Config) { c.Issuer += "?" }, "issuer", "is not a URL"},
		"a user":          {func(c *signer.Config) { c.Issuer = "https://a@b" }, "issuer", "is not a URL"},
		"long":            {func(c *signer.Config) { c.Issuer += "/" + strings.Repeat("x", 300) }, "issuer", "at most 256"},
		"no keys":         {func(c *signer.Config) { c.Keys = nil }, "keys", "is empty"},
		"many keys":       {func(c *signer.Config) { c.Keys = slices.Repeat(c.Keys, 17) }, "keys", "at most 16"},
		"no id":           {func(c *signer.Config) { c.Keys[0].ID = "" }, "keys[0].id", "is not a name"},
		"quote in id":     {func(c *signer.Config) { c.Keys[0].ID = `a"b` }, "keys[0].id", "is not a name"},
		"long id":         {func(c *signer.Config) { c.Keys[0].ID = strings.Repeat("a", 65) }, "keys[0].id", "is not a name"},
		"two of one id":   {func(c *signer.Config) { k := keyOf("k2"); k.ID = "k1"; c.Keys = append(c.Keys, k) }, "keys[1].id", "another key"},
		"one key twice":   {func(c *signer.Config) { k := keyOf("k1"); k.ID = "k2"; c.Keys = append(c.Keys, k) }, "keys[1].key", "same as that of k1"},
		"no key":          {secret(""), "keys[0].key", "is missing"},
		"short":           {secret(good[2:]), "keys[0].key", "neither"},
		"no hex":          {secret("x" + good[1:]), "keys[0].key", "other characters"},
		"no base64":       {secret("*" + strings.Repeat("A", 42)), "keys[0].key", "other characters"},
		"loose bits":      {secret(strings.Repeat("A", 42) + "B"), "keys[0].key", "other characters"},
		"padded":          {secret(base64.URLEncoding.EncodeToString(seed("k1"))), "keys[0].key", "neither"},
		"zeros":           {secret(strings.Repeat("00", 32)), "keys[0].key", "repeats one byte"},
		"published":       {secret("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"), "keys[0].key", "published example"},
		"another kind":    {secret(pemOf(t, ec)), "keys[0].key", "another kind"},
		"a public key":    {secret(strings.ReplaceAll(pemOf(t, ed25519.NewKeyFromSeed(seed("k1"))), "PRIVATE", "PUBLIC")), "keys[0].key", "not a private key"},
		"encrypted":       {secret(strings.ReplaceAll(pemOf(t, ec), "PRIVATE", "ENCRYPTED PRIVATE")), "keys[0].key", "encrypted"},
		"two PEM blocks":  {secret(pemOf(t, ec) + pemOf(t, ec)), "keys[0].key", "more than one"},
		"damaged PEM":     {secret("-----BEGIN PRIVATE KEY-----\nAAAA"), "keys[0].key", "damaged"},
		"no PKCS#8":       {secret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))), "keys[0].key", "not a private key"},
		"life too long":   {func(c *signer.Config) { c.IdentityTTL = 6 * time.Minute }, "identity_ttl", "10s to 5m"},
		"life too short":  {func(c *signer.Config) { c.IdentityTTL = time.Second }, "identity_ttl", "10s to 5m"},
		"life before now": {func(c *signer.Config) { c.IdentityTTL = -time.Second }, "identity_ttl", "10s to 5m"},
	} {
		cfg := signer.Config{Issuer: issuer, Keys: []signer.KeyConfig{keyOf("k1")}}
		tt.change(&cfg)
		var got []string
		cfg.Check(func(path, message, suggestion string) {
			got = append(got, path+" "+message)
			if suggestion == "" {
				t.Errorf("%s: %s has no hint", name, path)
			}
		})
		if len(got) != 1 || !strings.HasPrefix(got[0], tt.field+" ") || !strings.Contains(got[0], tt.part) {
			t.Errorf("%s: %q", name, got)
		}
		s, err := signer.New(cfg, signer.Deps{})
		if s != nil || err == nil {
			t.Errorf("%s: %v, %v", name, s, err)
			continue
		}
		for _, k := range cfg.Keys {
			if text := k.Key.Reveal(); len(text) > 8 && strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error shows the key", name)
			}
		}
	}
}

func secret(text string) func(*signer.Config) {
	return func(c *signer.Config) { c.Keys[0].Key = policy.NewSecret(text) }
}

// No configuration and nil sign nothing, and publish nothing.
func TestNotConfigured(t *testing.T) {
	t.Parallel()
	s, err := signer.New(signer.Config{}, signer.Deps{})
	if s != nil || err != nil {
		t.Fatalf("%v, %v", s, err)
	}
	if s.Issuer() != "" || s.Heads(signer.TypePAT) != nil || string(s.KeySet()) != `{"keys":[]}` || !s.PAT(signer.PAT{ID: "x"}).IsZero() {
		t.Error("nil signs")
	}
	if _, _, err := s.Identity(ann(), upstream, noon, time.Time{}); !errors.Is(err, signer.ErrNotConfigured) {
		t.Error(err)
	}
	if _, _, err := jose.ParseKeySet(s.KeySet()); err != nil {
		t.Error(err)
	}
}

// The keys of a Signer are in no text that is made of it.
func TestSecretsStayIn(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		text := fmt.Sprintf(verb, s)
		for _, form := range []string{hex.EncodeToString(seed("k1")), string(seed("k1")), fmt.Sprint(seed("k1")[:8])[1:20]} {
			if strings.Contains(text, form) {
				t.Errorf("%.80s… holds the key", text)
			}
		}
	}
}

// The set has the form of RFC 8037 section 2, and is the same text for the same keys.
func TestKeySet(t *testing.T) {
	t.Parallel()
	s := newSigner(t, withKeys("b", "a", "c"))
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(s.KeySet(), &set); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"a", "b", "c"} {
		public := ed25519.NewKeyFromSeed(seed(id)).Public().(ed25519.PublicKey)
		want := map[string]string{
			"alg": "EdDSA", "crv": "Ed25519", "kty": "OKP", "use": "sig", "kid": id,
			"x": base64.RawURLEncoding.EncodeToString(public),
		}
		if diff := cmp.Diff(want, set.Keys[i]); diff != "" {
			t.Error(diff)
		}
	}
	if !bytes.Equal(s.KeySet(), newSigner(t, withKeys("c", "b", "a")).KeySet()) {
		t.Error("the order of the keys shows in the set")
	}
}

// G-02: keys rotate with overlap. Whoever has read the set of one step verifies what is
// signed in the next, and what was signed in the one before.
func TestRotation(t *testing.T) {
	t.Parallel()
	steps := []*signer.Signer{
		newSigner(t, withKeys("old")), newSigner(t, withKeys("old", "new")),
		newSigner(t, withKeys("new", "old")), newSigner(t, withKeys("new")),
	}
	signs := []string{"old", "old", "new", "new"}
	for i, s := range steps {
		text := s.Sign(signer.TypeIdentity, []byte(`{}`))
		if got := verified(t, s, text).KeyID(); got != signs[i] {
			t.Errorf("step %d signs with %s", i, got)
		}
		for j := max(0, i-1); j <= min(i+1, 3); j++ {
			if _, err := verify(steps[j].KeySet(), text); err != nil {
				t.Errorf("what step %d signs is not good in step %d: %v", i, j, err)
			}
		}
	}
	if _, err := verify(steps[3].KeySet(), steps[0].Sign(signer.TypeIdentity, []byte(`{}`))); err == nil {
		t.Error("what a key signed is good after the key was taken away")
	}
}

func ann() *policy.Principal {
	return &policy.Principal{
		ID: "ann", Kind: policy.KindUser, Tenant: "acme", Issuer: "postern", Method: policy.MethodSession, CredentialID: "4fQzR8xW0bLm",
		Roles: []string{"clerk", "reader"}, Scopes: []string{"orders.read", "orders.write"}, Permissions: []string{"orders.*"},
		AMR: []string{"pwd", "otp"}, ACR: "gold", AuthTime: noon.Add(-time.Minute),
		Actors: []policy.Actor{{ID: "agent-7", Kind: policy.KindAgent}, {ID: "shop", Kind: policy.KindService}},
		Claims: map[string]any{"email": "ann@example.com"}, Metadata: map[string]any{"note": "for policies only"},
	}
}

// G-02, S-08: an upstream that has Postern's keys learns who called, and no more.
func TestIdentity(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	text, expires, err := s.Identity(ann(), upstream, noon.Add(700*time.Millisecond), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	token := verified(t, s, text)
	if typ, _ := token.Header().Get("typ").Text(); typ != "JWT" || token.Algorithm() != "EdDSA" || token.KeyID() != "k1" {
		t.Errorf("typ %s", typ)
	}
	claims := payload(t, text)
	jti, _ := claims["jti"].(string)
	delete(claims, "jti")
	want := map[string]any{
		"iss": issuer, "sub": "ann", "aud": upstream, "iat": float64(noon.Unix()), "exp": float64(noon.Unix() + 300),
		"origin": "postern", "tenant": "acme", "kind": "user", "method": "session", "credential": "4fQzR8xW0bLm",
		"roles": []any{"clerk", "reader"}, "scopes": []any{"orders.read", "orders.write"}, "scope": "orders.read orders.write",
		"permissions": []any{"orders.*"}, "amr": []any{"pwd", "otp"}, "acr": "gold", "auth_time": float64(noon.Add(-time.Minute).Unix()),
		"act": map[string]any{"sub": "agent-7", "kind": "agent", "act": map[string]any{"sub": "shop", "kind": "service"}},
	}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Error(diff)
	}
	if expires != noon.Add(5*time.Minute) || len(jti) != 22 {
		t.Errorf("%s, %q", expires, jti)
	}
	again, _, err := s.Identity(ann(), upstream, noon, time.Time{})
	if err != nil || payload(t, again)["jti"] == jti {
		t.Errorf("two tokens have one id, %v", err)
	}
}

// G-02: never longer than five minutes, the configured life, or the credential's own.
func TestIdentityEnds(t *testing.T) {
	t.Parallel()
	in := func(d time.Duration) time.Time { return noon.Add(d) }
	for name, tt := range map[string]struct {
		ttl            time.Duration
		notAfter, ends time.Time
		want           time.Duration
		err            error
	}{
		"five minutes":     {want: 5 * time.Minute},
		"configured":       {ttl: time.Minute, want: time.Minute},
		"proof":            {notAfter: in(90 * time.Second), want: 90 * time.Second},
		"credential":       {ends: in(30 * time.Second), notAfter: in(90 * time.Second), want: 30 * time.Second},
		"cut to seconds":   {ends: in(30*time.Second + 999*time.Millisecond), want: 30 * time.Second},
		"within a second":  {ends: in(999 * time.Millisecond), err: signer.ErrEnded},
		"now":              {notAfter: noon, err: signer.ErrEnded},
		"long ago":         {notAfter: in(-time.Hour), err: signer.ErrEnded},
		"longer, no more":  {ends: in(time.Hour), want: 5 * time.Minute},
		"far away, no end": {notAfter: in(1 << 60), want: 5 * time.Minute},
	} {
		s := newSigner(t, func(c *signer.Config) { c.IdentityTTL = tt.ttl })
		p := ann()
		p.ExpiresAt = tt.ends
		text, expires, err := s.Identity(p, upstream, noon, tt.notAfter)
		if !errors.Is(err, tt.err) || err == nil && (expires != noon.Add(tt.want) || payload(t, text)["exp"] != float64(expires.Unix())) {
			t.Errorf("%s: %s, %v", name, expires, err)
		}
		if err != nil && (text != "" || !expires.IsZero()) {
			t.Errorf("%s: an error and a token", name)
		}
	}
}

// Who is nobody, or a token for everywhere, gets none.
func TestNoIdentity(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	many := ann()
	for range 500 {
		many.Roles = append(many.Roles, strings.Repeat("r", 40))
	}
	crowd := ann()
	crowd.Actors = make([]policy.Actor, 15)
	for name, tt := range map[string]struct {
		p        *policy.Principal
		audience string
		want     error
	}{
		"none":        {nil, upstream, signer.ErrNobody},
		"zero":        {&policy.Principal{}, upstream, signer.ErrNobody},
		"anonymous":   {&policy.Principal{ID: "anonymous", Kind: policy.KindAnonymous}, upstream, signer.ErrNobody},
		"no audience": {ann(), "", signer.ErrNoAudience},
		"many roles":  {many, upstream, signer.ErrTooLarge},
		"many actors": {crowd, upstream, signer.ErrTooLarge},
	} {
		if text, _, err := s.Identity(tt.p, tt.audience, noon, time.Time{}); text != "" || !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken, err := signer.New(signer.Config{Issuer: issuer, Keys: []signer.KeyConfig{keyOf("k1")}}, signer.Deps{Random: strings.NewReader("")})
	if err != nil {
		t.Fatal(err)
	}
	if text, _, err := broken.Identity(ann(), upstream, noon, time.Time{}); text != "" || err == nil {
		t.Error("a token without an id of its own")
	}
}

// P-13: a personal access token says whose it is and which, and nothing of its rights.
func TestPAT(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	text := s.PAT(signer.PAT{ID: "4fQzR8xW0bLm", Subject: "ann", Tenant: "acme", Environment: "live", IssuedAt: noon, ExpiresAt: noon.Add(time.Hour + time.Millisecond)})
	token := verified(t, s, text.Reveal())
	if typ, _ := token.Header().Get("typ").Text(); typ != "pat+jwt" {
		t.Errorf("typ %s", typ)
	}
	want := map[string]any{
		"iss": issuer, "aud": issuer, "sub": "ann", "tenant": "acme", "env": "live", "jti": "4fQzR8xW0bLm",
		"iat": float64(noon.Unix()), "exp": float64(noon.Unix() + 3601),
	}
	if diff := cmp.Diff(want, payload(t, text.Reveal())); diff != "" {
		t.Error(diff)
	}
	for _, heads := range [][]string{s.Heads(signer.TypePAT), newSigner(t, withKeys("k2", "k1")).Heads(signer.TypePAT)} {
		if !slices.ContainsFunc(heads, func(h string) bool { return strings.HasPrefix(text.Reveal(), h) }) {
			t.Errorf("%q are not the beginning of %.60s", heads, text.Reveal())
		}
	}
	identity, _, _ := s.Identity(ann(), upstream, noon, time.Time{})
	if strings.HasPrefix(identity, s.Heads(signer.TypePAT)[0]) {
		t.Error("an identity token looks like a personal access token")
	}
}

// Whatever a principal holds, the token is one that strict readers take, says each
// thing once, and says it as it is.
func TestIdentityRoundTrip(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	anyText := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "a", `"`, `\`, "\x00", "\x7f", "\u2028", "\xff", "a\xc3", "\xed\xa0\x80", "😀", "</script>", "a b"}))
	rapid.Check(t, func(t *rapid.T) {
		texts := func(name string) []string { return rapid.SliceOfN(anyText, 0, 4).Draw(t, name) }
		p := &policy.Principal{
			ID: "x" + anyText.Draw(t, "id"), Kind: policy.KindService, Tenant: anyText.Draw(t, "tenant"), Issuer: anyText.Draw(t, "issuer"),
			Roles: texts("roles"), Scopes: texts("scopes"), Permissions: texts("permissions"), AMR: texts("amr"), ACR: anyText.Draw(t, "acr"),
		}
		for _, id := range texts("actors") {
			p.Actors = append(p.Actors, policy.Actor{ID: id, Kind: policy.KindAgent})
		}
		audience := "x" + anyText.Draw(t, "audience")
		text, _, err := s.Identity(p, audience, noon, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		token, err := verify(s.KeySet(), text)
		if err != nil {
			t.Fatal(err)
		}
		c := token.Claims()
		for name, want := range map[string]string{"sub": p.ID, "aud": audience, "tenant": p.Tenant, "origin": p.Issuer, "acr": p.ACR} {
			if got, _ := c.Get(name).Text(); got != valid(want) {
				t.Fatalf("%s is %q, not %q", name, got, want)
			}
		}
		for name, want := range map[string][]string{"roles": p.Roles, "scopes": p.Scopes, "permissions": p.Permissions, "amr": p.AMR} {
			var got []string
			for e := range c.Get(name).Elements() {
				item, _ := e.Text()
				got = append(got, item)
			}
			if len(got) != len(want) || !slices.EqualFunc(got, want, func(g, w string) bool { return g == valid(w) }) {
				t.Fatalf("%s is %q, not %q", name, got, want)
			}
		}
		scope, _ := c.Get("scope").Text()
		for _, one := range strings.Fields(scope) {
			if !slices.Contains(p.Scopes, one) {
				t.Fatalf("the scope %q was not given: %q", one, p.Scopes)
			}
		}
		act := c.Get("act")
		for _, a := range p.Actors {
			if got, _ := act.Get("sub").Text(); got != valid(a.ID) {
				t.Fatalf("actor %q, not %q", got, a.ID)
			}
			act = act.Get("act")
		}
		if act.Exists() {
			t.Fatal("one actor too many")
		}
	})
}

// valid is what becomes of a text that is not UTF-8: byte for byte.
func valid(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		b.WriteRune(r)
		s = s[n:]
	}
	return b.String()
}

// FuzzIdentity: no name makes a token that cannot be read, or that says something else.
// What is escaped may grow sixfold, and then be too much for a header field.
func FuzzIdentity(f *testing.F) {
	s := newSigner(f)
	f.Add("ann", "acme", "reader")
	f.Add(`","sub":"root`, "\\", "\xff\xfe")
	f.Add(strings.Repeat("\x01", 1<<10), "", "")
	f.Fuzz(func(t *testing.T, id, tenant, role string) {
		if id == "" || len(id)+len(tenant)+len(role) > 1<<10 {
			return
		}
		text, _, err := s.Identity(&policy.Principal{ID: id, Kind: policy.KindUser, Tenant: tenant, Roles: []string{role}}, upstream, noon, time.Time{})
		if errors.Is(err, signer.ErrTooLarge) && len(id)+len(tenant)+len(role) > 512 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		token := verified(t, s, text)
		if sub, _ := token.Claims().Get("sub").Text(); sub != valid(id) {
			t.Fatalf("%q became %q", id, sub)
		}
	})
}

// FuzzKey: no text makes New panic, and what it takes, it signs with.
func FuzzKey(f *testing.F) {
	f.Add(hex.EncodeToString(seed("k1")))
	f.Add(base64.RawURLEncoding.EncodeToString(seed("k1")))
	f.Add(pemOf(f, ed25519.NewKeyFromSeed(seed("k1"))))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := signer.New(signer.Config{Issuer: issuer, Keys: []signer.KeyConfig{{ID: "k", Key: policy.NewSecret(text)}}}, signer.Deps{})
		if err == nil {
			verified(t, s, s.Sign("JWT", []byte(`{}`)))
		}
	})
}

func BenchmarkIdentity(b *testing.B) {
	s, p := newSigner(b), ann()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.Identity(p, upstream, noon, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}
