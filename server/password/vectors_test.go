package password_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/vectortest"
)

type vector struct {
	ID       string      `json:"id"`
	Encoded  string      `json:"encoded"`
	Password string      `json:"password"`
	Stored   string      `json:"stored_password"`
	Scheme   string      `json:"scheme"`
	Match    bool        `json:"match"`
	Memory   json.Number `json:"mem_kib"`
}

// B-06 and B-07: a password fits where the vectors say so, unless it would take
// more memory than we give to anybody, or is of Argon2's first version, which
// nobody has written for years.
func TestVectors(t *testing.T) {
	t.Parallel()
	h := hasher(t, password.Config{}, password.Deps{})
	all := vectortest.Lines[vector](t, "passwords/passwords.jsonl")
	fit, no, refused := 0, 0, 0
	for _, v := range all {
		if v.Stored != "" {
			v.Encoded = hash(t, h, v.Stored)
		}
		ok, err := h.Verify(t.Context(), v.Encoded, policy.NewSecret(v.Password))
		memory, _ := v.Memory.Int64()
		declined := strings.HasPrefix(v.Encoded, "$argon2i$m=") || memory > 256*1024
		switch {
		case ok != (v.Match && !declined):
			t.Errorf("%s: %v, %v; want %v", v.ID, ok, err, v.Match)
		case v.Match && declined:
			refused++
		case ok:
			fit++
		default:
			no++
		}
	}
	t.Logf("%d vectors: %d fit, %d do not, %d are of a kind that is not taken", len(all), fit, no, refused)
}

// B-07: bcrypt tells passwords apart that its 72 bytes, or a NUL, make the same.
func TestBcryptBeyondItsEnd(t *testing.T) {
	t.Parallel()
	h := hasher(t, password.Config{}, password.Deps{})
	// Made by crypt(3) from 72 times "p".
	long := "$2b$05$abcdefghijklmnopqrstuu" + longSum
	for text, want := range map[string]bool{
		strings.Repeat("p", 72): true, strings.Repeat("p", 73): false, strings.Repeat("p", 71): false, strings.Repeat("p", 72) + "\x00": false,
	} {
		if fits(t, h, long, text) != want {
			t.Errorf("%d bytes: not %v", len(text), want)
		}
	}
}

// No text makes the parser panic, ask for more than the limits, or accept a second
// spelling of a hash.
func FuzzParse(f *testing.F) {
	for _, phc := range imported {
		f.Add(phc)
	}
	f.Add("$argon2id$v=19$m=19456,t=2,p=1,keyid=djE$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Add("$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	h := hasher(f, password.Config{}, password.Deps{})
	f.Fuzz(func(t *testing.T, phc string) {
		memory, work, ok := password.Cost(phc)
		if !ok {
			if !h.NeedsRehash(phc) {
				t.Error("what is no hash would stay")
			}
			return
		}
		if memory > 256*1024 || work > 2_000_000 {
			t.Errorf("%d KiB, %d", memory, work)
		}
		if again, argon := password.Again(phc); argon && again != phc {
			t.Errorf("%q is also %q", phc, again)
		}
	})
}

const longSum = "eTFRGDqVFTIfwSnwEw/V4ZpLYuQbKSG"
