package basic_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/basic"
)

// B-04, CACHE-05: the key is HMAC-SHA-256 over the parts with their lengths, so that no
// part can run into the next.
func TestKey(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		parts := [4]string{text.Draw(t, "tenant"), text.Draw(t, "name"), text.Draw(t, "password"), text.Draw(t, "epoch")}
		if rapid.Bool().Draw(t, "long") {
			parts[2] = strings.Repeat("x", 2000)
		}
		change := rapid.Int64().Draw(t, "change")
		secret := [32]byte{1, 2, 3}
		mac := hmac.New(sha256.New, secret[:])
		for _, p := range []string{parts[0], parts[1], parts[2], "store", parts[3]} {
			_ = binary.Write(mac, binary.BigEndian, uint32(len(p)))
			mac.Write([]byte(p))
		}
		_ = binary.Write(mac, binary.BigEndian, change)
		got := basic.KeyOf(secret, basic.Try{Tenant: parts[0], Name: parts[1], Password: policy.NewSecret(parts[2])}, authn.Version{Epoch: parts[3], Change: change})
		if string(got[:]) != string(mac.Sum(nil)) {
			t.Fatal("not the HMAC")
		}
	})
}

// CACHE-05: every way to split one text into tenant, name and password has a key of its
// own.
func TestKeySplits(t *testing.T) {
	t.Parallel()
	const text = "a|b:c\x00d/e\nf,g"
	seen := map[[32]byte]bool{}
	n := 0
	for i := range len(text) + 1 {
		for j := i; j <= len(text); j++ {
			n++
			seen[basic.KeyOf([32]byte{}, basic.Try{Tenant: text[:i], Name: text[i:j], Password: policy.NewSecret(text[j:])}, authn.Version{})] = true
		}
	}
	if len(seen) != n {
		t.Errorf("%d keys for %d splits", len(seen), n)
	}
}

// FuzzFile: no text makes it panic; what is taken has a user, a hash that can be
// verified, and is one line.
func FuzzFile(f *testing.F) {
	f.Add("alice:$2b$05$abcdefghijklmnopqrstuu" + sum)
	f.Add("a:$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc:reader,writer")
	f.Add("# a comment")
	f.Fuzz(func(t *testing.T, line string) {
		user, hash, roles, err := basic.ParseLine(line)
		if err == nil && hash != "" {
			again := user + ":" + hash
			if roles != nil {
				again += ":" + strings.Join(roles, ",")
			}
			if user == "" || strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r") != again {
				t.Errorf("%q is read as %q", line, again)
			}
		}
		if _, err := basic.ParseFile([]byte(line + "\n" + line)); err == nil && hash != "" {
			t.Errorf("%q is there twice", line)
		}
	})
}
