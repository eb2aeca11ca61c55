package main

import (
	"crypto/rand"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// signedStore is a store with signing keys beside it.
const signedStore = sqliteStore + `
signing: { issuer: "https://auth.test", keys: [{ id: one, key: "${file:one.key}" }] }`

const aJWT = adminv1.CredentialFormat_CREDENTIAL_FORMAT_JWT

// P-13: a personal access token that is a JWT, through the built server: it works where
// others do and at once, it is revoked within a second by its id and by its jti on the
// denylist, and keys rotate under it without a restart.
func TestSignedPersonalAccessTokens(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, signedStore)
	random := make([]byte, 32)
	for _, name := range []string{"one.key", "two.key"} {
		_, _ = rand.Read(random)
		w.write(t, name, hex.EncodeToString(random))
	}
	w.bootstrap(t)
	p := launch(t, w)
	p.user(t, "ann", "reader")
	token := func(name string) (id, secret string) {
		t.Helper()
		id, secret = p.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: name, Format: aJWT})
		if strings.Count(secret, ".") != 2 {
			t.Fatalf("%s is no JWT", name)
		}
		return id, secret
	}
	with := func(token string) request { return get("/", bearer(token)...) }

	// K-01: the replica that has issued it knows it when it answers.
	id, first := token("first")
	a := p.expect(t, with(first), 200, "allowed")
	p.expect(t, withKey("/", first), 200, "allowed")
	if told := p.askPostern(t, with(first)); told.principal != "ann" || told.method != "pat" || told.credential != id || a.header("authorization") != "" {
		t.Errorf("the caller is %s by %s %s", told.principal, told.method, told.credential)
	}
	listed, second := token("second")
	p.expect(t, with(first[:len(first)-1]+"x"), 401, "credential_malformed")

	p.run(t, "pat", "revoke", id, "--reason", "lost")
	p.becomes(t, with(first), 401, "revoked")
	p.expect(t, with(second), 200, "allowed")
	p.run(t, "denylist", "add", "--jti", listed, "--issuer", "https://auth.test")
	p.becomes(t, with(second), 401, "revoked")

	// G-02: another key is published before it signs, and signs without a restart.
	_, third := token("third")
	published := func() string {
		res, err := http.Get("http://" + p.login + "/.well-known/jwks.json")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK || strings.Contains(string(body), `"d"`) {
			t.Fatalf("%d %v %s", res.StatusCode, err, body)
		}
		return string(body)
	}
	if set := published(); !strings.Contains(set, `"one"`) || strings.Contains(set, `"two"`) {
		t.Errorf("published: %s", set)
	}
	keys := func(list string) {
		text := w.read(t, "postern.yaml")
		from, to := strings.Index(text, "keys: [{ id"), strings.Index(text, "}] }")
		w.write(t, "postern.yaml", text[:from]+"keys: ["+list+text[to+1:])
	}
	one, two := `{ id: one, key: "${file:one.key}" }`, `{ id: two, key: "${file:two.key}" }`
	keys(one + ", " + two)
	eventually(t, "the new key is published", func() bool { return strings.Contains(published(), `"two"`) })
	p.expect(t, with(third), 200, "allowed")
	keys(two + ", " + one)
	turning, fourth := token("fourth")
	eventually(t, "the new key signs", func() bool {
		next := does(t, p.credentials.RotateCredential, &adminv1.RotateCredentialRequest{Id: turning})
		turning, fourth = next.GetCredential().GetId(), next.GetSecret()
		return strings.Split(fourth, ".")[0] != strings.Split(third, ".")[0]
	})
	p.expect(t, with(third), 200, "allowed")
	p.expect(t, with(fourth), 200, "allowed")
	keys(two)
	eventually(t, "the old key is gone", func() bool { return !strings.Contains(published(), `"one"`) })
	p.becomes(t, with(third), 401, "issuer_untrusted")
	p.expect(t, with(fourth), 200, "allowed")
}
