package main

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/authn/apikey"
)

// documented is the key of the documentation's samples. It stands in tests and
// docs only.
const documented = "sk_live_abc123def456ghi789"

// imported is the entry of a foreign key: its SHA-256, as `sha256sum` prints it.
func imported(id, key, more string) string {
	return fmt.Sprintf("  - id: %s\n    digest: sha256:%x\n    principal: {id: %s}\n%s", id, sha256.Sum256([]byte(key)), id, more)
}

// K-02: the documented call works as it stands,
//
//	curl -H "X-API-Key: sk_live_abc123def456ghi789" https://api.example.com/users
//
// and so do the other ways to send a key. What does not gets 401, or under the
// legacy profile what old clients of such an API expect.
func TestDocumentedKey(t *testing.T) {
	t.Parallel()
	const revoked, expired, unknown = "sk_live_revoked3def456ghi789", "sk_live_expired3def456ghi789", "sk_live_unknown3def456ghi789"
	file := "keys:\n" + imported("billing", documented, "") + imported("revoked", revoked, "    revoked: {}\n") +
		imported("expired", expired, "    expires_at: 2026-01-01T00:00:00Z\n")
	users := func(headers ...string) request {
		q := get("/users", headers...)
		q.host = "api.example.com"
		return q
	}
	for profile, want := range map[string]map[string]struct {
		status int
		body   string
	}{
		"standard": {revoked: {401, "revoked"}, expired: {401, "expired"}, unknown: {401, "not valid"}, "": {401, "A credential is required."}},
		"legacy":   {revoked: {403, "Invalid API key"}, expired: {403, "API key expired"}, unknown: {403, "Invalid API key"}, "": {401, "API key required"}},
	} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			w := prepare(t, "keys", "@PROFILE@", profile)
			w.write(t, "keys.yaml", file)
			b := start(t, w)
			b.hide(documented[8:], revoked, expired[8:], unknown[8:])
			for _, headers := range [][]string{{"X-API-Key", documented}, {"authorization", "Bearer " + documented}, {"authorization", "ApiKey " + documented}} {
				if a := b.expect(t, users(headers...), 200, "allowed"); a.principal != "billing" || !slices.Contains(a.removed, strings.ToLower(headers[0])) {
					t.Errorf("%v, removes %v", a, a.removed)
				}
			}
			for key, w := range want {
				q := users("x-api-key", key)
				if key == "" {
					q = users()
				}
				if a := b.askEnvoy(t, q); a.status != w.status || !strings.Contains(a.body, w.body) {
					t.Errorf("%q: %d %s, want %d %q", key, a.status, a.body, w.status, w.body)
				}
			}
			q := users()
			q.path += "?api_key=" + documented
			b.expect(t, q, 401, "credential_in_query")
		})
	}
}

// K-06: a key that expires does so on every replica, at its time and without any
// event, though all of them have seen it as a good one.
func TestKeyExpires(t *testing.T) {
	t.Parallel()
	w := prepare(t, "keys", "@PROFILE@", "standard")
	end := time.Now().Add(3 * time.Second)
	key := w.mint(t, order{id: "job"}, func(k *apikey.Key) { k.ExpiresAt = end })
	early := w.mint(t, order{id: "early"}, func(k *apikey.Key) { k.NotBefore = time.Now().Add(time.Minute) })
	w.shared(t)
	replicas := []*box{start(t, w), start(t, w)}
	for _, b := range replicas {
		b.hide(key, early)
		b.expect(t, get("/", "x-api-key", early), 401, "not_yet_valid")
		for range 3 {
			b.expect(t, get("/", "x-api-key", key), 200, "allowed")
		}
	}
	for _, b := range replicas {
		eventually(t, "the key has expired", func() bool {
			asked := time.Now()
			a := b.askEnvoy(t, get("/", "x-api-key", key))
			if a.allowed() && asked.After(end) {
				t.Fatal("allowed past its end")
			}
			return !a.allowed()
		})
		b.expect(t, get("/", "x-api-key", key), 401, "expired")
	}

	// A longer life, written into the file, counts without a restart.
	w.write(t, "keys.yaml", strings.ReplaceAll(w.read(t, "keys.yaml"), end.UTC().Format(time.RFC3339Nano), end.Add(time.Hour).UTC().Format(time.RFC3339Nano)))
	for _, b := range replicas {
		eventually(t, "the keys file is read again", func() bool { return b.askEnvoy(t, get("/", "x-api-key", key)).allowed() })
	}
}

// What the keys file says no more, or says otherwise, counts as soon as it is read
// again: nothing of a key that was good is remembered.
func TestKeysAreTakenBack(t *testing.T) {
	t.Parallel()
	w := prepare(t, "keys", "@PROFILE@", "standard")
	kept := w.mint(t, order{id: "kept"})
	before := w.read(t, "keys.yaml")
	key := w.mint(t, order{id: "job"})
	entry := strings.TrimPrefix(w.read(t, "keys.yaml"), before)
	b := start(t, w)
	b.hide(key, kept)
	for _, c := range []struct{ entry, reason string }{
		{entry + "    disabled: true\n", "disabled"},
		{entry + "    revoked: {reason: compromise}\n", "revoked"},
		{entry + "    rotated: {to: somebody-else}\n", "rotated"},
		{"", "credential_unknown"},
	} {
		b.write(t, "keys.yaml", before+entry)
		eventually(t, "the key is good", func() bool { return b.askEnvoy(t, get("/", "x-api-key", key)).allowed() })
		b.write(t, "keys.yaml", before+c.entry)
		eventually(t, "the key is "+c.reason, func() bool { return !b.askEnvoy(t, get("/", "x-api-key", key)).allowed() })
		b.expect(t, get("/", "x-api-key", key), 401, c.reason)
		b.expect(t, get("/", "x-api-key", kept), 200, "allowed")
	}
}

// K-11 and O-02: a key that may read may not write, and the answer says all that
// is missing.
func TestReadOnlyKey(t *testing.T) {
	t.Parallel()
	w := prepare(t, "keys", "@PROFILE@", "standard")
	reader := w.mint(t, order{id: "reader", scopes: []string{"orders:read"}})
	nobody := w.mint(t, order{id: "nobody"})
	onlyGet := w.mint(t, order{id: "only-get", scopes: []string{"orders:read", "orders:write"}, methods: []string{"GET"}, paths: []string{"/orders"}})
	b := start(t, w)
	b.hide(reader, nobody, onlyGet)

	b.expect(t, get("/orders", "x-api-key", reader), 200, "allowed")
	a := b.expect(t, get("/orders", "x-api-key", reader).with("POST"), 403, "insufficient_scope")
	const challenge = `Bearer realm="postern", error="insufficient_scope", error_description="The credential lacks a scope.", scope="orders:write"`
	if got := a.header("www-authenticate"); !strings.HasPrefix(got, challenge) {
		t.Errorf("challenge %s, want %s", got, challenge)
	}
	a = b.expect(t, get("/orders", "x-api-key", nobody).with("POST"), 403, "insufficient_scope")
	if !slices.Equal(a.missingScopes, []string{"orders:read", "orders:write"}) || !strings.Contains(a.header("www-authenticate"), `scope="orders:read orders:write"`) {
		t.Errorf("missing %v, challenge %s", a.missingScopes, a.header("www-authenticate"))
	}
	b.expect(t, get("/orders", "x-api-key", onlyGet), 200, "allowed")
	b.expect(t, get("/orders", "x-api-key", onlyGet).with("POST"), 403, "method_not_allowed")
	b.expect(t, get("/users", "x-api-key", onlyGet), 403, "path_not_allowed")
}

// G-08: a key that was sent without TLS is refused, told of, and from then on
// good for nothing; a key that never was one is not told from others.
func TestPlaintext(t *testing.T) {
	t.Parallel()
	w := prepare(t, "keys", "@PROFILE@", "standard")
	key, other := w.mint(t, order{id: "job"}), w.mint(t, order{id: "other"})
	b := start(t, w)
	b.hide(key, other)
	plain := func(path, key string) request {
		q := get(path, "x-api-key", key)
		q.scheme = "http"
		return q
	}
	b.expect(t, get("/", "x-api-key", key), 200, "allowed")
	b.expect(t, plain("/plain/x", key), 200, "allowed")
	if a := b.askEnvoy(t, plain("/", key)); a.status != 403 || a.reason != "credential_over_plaintext" {
		t.Errorf("over plaintext: %v", a)
	}
	b.expect(t, get("/", "x-api-key", key), 401, "disabled") // at once
	b.expect(t, get("/", "x-api-key", other), 200, "allowed")
	b.expect(t, plain("/", documented), 401, "credential_unknown")
	if !strings.Contains(b.scrape(t), "postern_api_keys_quarantined 1") {
		t.Error("the quarantine is not counted")
	}
	quarantined := func() int {
		events := 0
		for _, e := range b.log.entries(t, "a good credential was sent over plaintext: somebody may have read it") {
			if e["event"] == "credential_over_plaintext" && e["quarantined"] == true {
				events++
			}
		}
		return events
	}
	eventually(t, "one event in the log", func() bool { return quarantined() == 1 }) // the pipe may be slower than the answer
}

// G-14: a key in the URL is refused, unless the route is for those who cannot do
// otherwise. Then it works, stays out of every log, does not go upstream, and is
// counted.
func TestKeyInQuery(t *testing.T) {
	t.Parallel()
	w := prepare(t, "keys", "@PROFILE@", "standard")
	key := w.mint(t, order{id: "job"})
	b := start(t, w)
	b.hide(key)
	for _, name := range []string{"api_key", "API-Key", "apikey", "access_token", "x", "api%5Fkey"} {
		b.expect(t, get("/orders?page=2&"+name+"="+key), 401, "credential_in_query")
	}
	for _, name := range []string{"apikey", "token", "API_KEY"} { // the route names one parameter
		b.expect(t, get("/legacy/orders?"+name+"="+key), 401, "credential_in_query")
	}
	a := b.expect(t, get("/legacy/orders?page=2&api_key="+key), 200, "allowed")
	if got := b.askEnvoy(t, get("/legacy/orders?page=2&api_key="+key)).unquery; !slices.Equal(got, []string{"api_key"}) {
		t.Errorf("query parameters %v are removed", got)
	}
	if problem := b.logged(t, a); problem != "" {
		t.Error(problem)
	}
	if !strings.Contains(b.scrape(t), "postern_query_credentials_total 3") {
		t.Error("the accepted ones are not counted")
	}
	b.expect(t, get("/legacy/orders?api_key="+key, "x-api-key", key), 401, "multiple_credentials")
	b.expect(t, get("/legacy/orders?api_key="+key+"&api_key="+key), 401, "multiple_credentials")
}
