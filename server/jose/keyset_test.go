package jose

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// JWKS-02: of two keys with one kid none is used, and other kids work. That one
// of them could not be used anyway makes no difference.
func TestRepeatedKid(t *testing.T) {
	t.Parallel()
	t.Run("JWKS-02", func(t *testing.T) {
		a, b := jwkOf("same", &testKeys().rsa.PublicKey), rsaJWK("same", modulus(2048), 65537)
		for name, keys := range map[string][]object{
			"two":                {a, b, edKey("other", 1)},
			"the other way":      {b, a, edKey("other", 1)},
			"twice the same":     {a, a, edKey("other", 1)},
			"of different types": {a, edKey("other", 1), edKey("same", 2)},
			"one of them weak":   {a.with("e", "AQ"), a, edKey("other", 1)},
		} {
			set, warnings, err := ParseKeySet([]byte(setOf(keys...)))
			if err != nil || set.Len() != 1 || len(found(t, set, "other", "EdDSA")) != 1 || len(warnings) != 2 {
				t.Errorf("%s: %d keys, %q, %v", name, set.Len(), warnings, err)
			}
			for _, w := range warnings {
				if !strings.Contains(w, `"same"`) {
					t.Errorf("%s: %q does not name the kid", name, w)
				}
			}
			for _, alg := range []string{"RS256", "EdDSA", "PS256"} {
				if len(found(t, set, "same", alg)) > 0 {
					t.Errorf("%s: %s finds one of them", name, alg)
				}
			}
		}
	})
}

// JWKS-20: a published private key counts for its public half, and is told of
// without a word of what it is.
func TestPublishedPrivateKey(t *testing.T) {
	t.Parallel()
	t.Run("JWKS-20", func(t *testing.T) {
		k := testKeys().rsa
		d := base64url(k.D.Bytes())
		private := jwkOf("k", &k.PublicKey).with("d", d, "p", base64url(k.Primes[0].Bytes()), "q", base64url(k.Primes[1].Bytes()))
		set, warnings, err := ParseKeySet([]byte(setOf(private)))
		if err != nil || set.Len() != 1 || !set.privateSeen {
			t.Fatal(set.Len(), err)
		}
		if len(warnings) != 1 || !strings.Contains(warnings[0], "private") || strings.Contains(warnings[0], d[:8]) {
			t.Errorf("%q", warnings)
		}
		if single, _, err := ParseKeySet([]byte(private.text())); err != nil || !single.privateSeen {
			t.Error("as a single key:", single.Len(), err)
		}
		if keys := found(t, set, "k", "RS256"); keys[0].Public == any(k) || strings.Contains(fmt.Sprintf("%#v", keys[0]), k.D.String()) {
			t.Error("the private half was kept")
		}
	})
}

// Symmetric keys never count beside others.
func TestMixedSet(t *testing.T) {
	t.Parallel()
	secret := jwkOf("s", testKeys().secret)
	set, warnings, err := ParseKeySet([]byte(setOf(secret, edKey("k", 1))))
	if err != nil || set.Len() != 1 || len(warnings) != 1 || len(found(t, set, "s", "HS256")) > 0 || len(found(t, set, "", "HS256")) > 0 {
		t.Error(set.Len(), warnings, err)
	}
}

// Documents that are no key sets. JWKS-25: one with too many keys, or bytes.
func TestParseKeySetRefuses(t *testing.T) {
	t.Parallel()
	many := make([]object, MaxKeys+1)
	for i := range many {
		many[i] = object{"kid": fmt.Sprint(i)}
	}
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":            {"", ErrMalformed},
		"HTML":             {"<!doctype html><html></html>", ErrMalformed},
		"cut off":          {`{"keys":[{"kty":"RSA","n":"`, ErrMalformed},
		"an array":         {`[]`, ErrMalformed},
		"a string":         {`"keys"`, ErrMalformed},
		"no keys":          {`{}`, ErrMalformed},
		"keys is null":     {`{"keys":null}`, ErrMalformed},
		"keys is a key":    {`{"keys":{"kty":"RSA"}}`, ErrMalformed},
		"another case":     {`{"Keys":[]}`, ErrMalformed},
		"keys twice":       {`{"keys":[],"keys":[]}`, ErrMalformed},
		"a member twice":   {`{"keys":[{"kty":"oct","kty":"RSA"}]}`, ErrMalformed},
		"twice, escaped":   {`{"keys":[{"kty":"oct","\u006bty":"RSA"}]}`, ErrMalformed},
		"something after":  {`{"keys":[]}{"keys":[]}`, ErrMalformed},
		"byte order mark":  {"\ufeff" + `{"keys":[]}`, ErrMalformed},
		"not UTF-8":        {"{\"keys\":[{\"kid\":\"\xff\"}]}", ErrMalformed},
		"too many keys":    {setOf(many...), ErrTooLarge},
		"too many bytes":   {`{"keys":[]` + strings.Repeat(" ", MaxDocumentBytes) + `}`, ErrTooLarge},
		"nested too deep":  {`{"keys":[],"x":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`, ErrTooLarge},
		"too many members": {`{"keys":[],` + manyMembers(300) + `}`, ErrTooLarge},
	} {
		set, _, err := ParseKeySet([]byte(c.text))
		if set != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v", name, set, err)
		}
	}
	set, warnings, err := ParseKeySet([]byte(setOf(many[1:]...)))
	if err != nil || set.Len() != 0 || len(warnings) != maxWarnings+1 || warnings[maxWarnings] != fmt.Sprintf("and %d more", MaxKeys-maxWarnings) {
		t.Errorf("a thousand bad keys: %d warnings, %v", len(warnings), err)
	}
	if set, warnings, err := ParseKeySet([]byte(`{"keys":[null,7,"k",[],{}]}`)); err != nil || set.Len() != 0 || len(warnings) != 5 {
		t.Error("keys that are none:", warnings, err)
	}
	if set, _, err := ParseKeySet([]byte(edKey("k", 1).text())); err != nil || set.Len() != 1 {
		t.Error("a single key:", err)
	}
}

func manyMembers(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"m%d":1`, i)
	}
	return strings.Join(all, ",")
}

// A kid from outside stays on its line and short.
func TestWarningsAreTame(t *testing.T) {
	t.Parallel()
	kid := "a\nFAKE LOG LINE \x1b[31m" + strings.Repeat("x", 500)
	_, warnings, err := ParseKeySet([]byte(setOf(object{"kid": kid, "kty": "RSA"})))
	if err != nil || len(warnings) != 1 || strings.ContainsAny(warnings[0], "\n\x1b") || len(warnings[0]) > 300 {
		t.Errorf("%q %v", warnings, err)
	}
}

func TestEmptyKeySet(t *testing.T) {
	t.Parallel()
	for _, set := range []*KeySet{nil, {}} {
		if set.Len() != 0 || len(found(t, set, "", "RS256")) != 0 || len(found(t, set, "k", "RS256")) != 0 {
			t.Error("it has keys")
		}
	}
}

// Whatever the kids are: those that occur once are found, the others are not,
// and the order makes no difference to what the set is.
func TestKeySetProperties(t *testing.T) {
	t.Parallel()
	pool := make([]object, 12)
	for i := range pool {
		pool[i] = edKey("", byte(i+1))
	}
	rapid.Check(t, func(t *rapid.T) {
		kids := rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "c", "A", "a ", "\u00e4", "a\u0308", "\x00"}), 0, len(pool)).Draw(t, "kids")
		var keys []object
		count := map[string]int{}
		for i, kid := range kids {
			count[kid]++
			keys = append(keys, pool[i].with("kid", kid))
		}
		set, _, err := ParseKeySet([]byte(setOf(keys...)))
		if err != nil {
			t.Fatal(err)
		}
		usable := 0
		for kid, n := range count {
			if kid == "" || n == 1 {
				usable += n
			}
			got, _ := set.Find(t.Context(), kid, "EdDSA")
			if kid != "" && (len(got) == 1) != (n == 1) {
				t.Fatalf("kid %q occurs %d times, found %d", kid, n, len(got))
			}
		}
		all, _ := set.Find(t.Context(), "", "EdDSA")
		if set.Len() != usable || len(all) != usable {
			t.Fatalf("%d keys, %d of them found, want %d", set.Len(), len(all), usable)
		}
		mixed := rapid.Permutation(keys).Draw(t, "order")
		if again, _, _ := ParseKeySet([]byte(setOf(mixed...))); again.digest != set.digest {
			t.Fatal("another order is another set")
		}
	})
}

// Sets that differ in anything that decides have different digests.
func TestDigest(t *testing.T) {
	t.Parallel()
	seen := map[[32]byte]string{}
	secret := jwkOf("k", make([]byte, 32))
	for _, text := range []string{
		setOf(), setOf(edKey("a", 1)), setOf(edKey("b", 1)), setOf(edKey("a", 2)), setOf(edKey("a", 1).with("alg", "EdDSA")),
		setOf(edKey("a", 1), edKey("b", 1)), setOf(edKey("", 1)), setOf(edKey("", 1), edKey("", 1)),
		setOf(secret), setOf(jwkOf("k", make([]byte, 33))), setOf(secret.with("alg", "HS256")),
	} {
		set, _, err := parseWithSecrets([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[set.digest]; ok {
			t.Errorf("%s and %s are the same", text, other)
		}
		seen[set.digest] = text
	}
}

// M-04: a look-up in a key set does not allocate.
func TestFindAllocatesNothing(t *testing.T) {
	set, _, err := ParseKeySet([]byte(setOf(edKey("a", 1), edKey("b", 2))))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	n := testing.AllocsPerRun(100, func() {
		for _, kid := range []string{"a", "b", "", "none"} {
			if keys, err := set.Find(ctx, kid, "EdDSA"); err != nil || (len(keys) == 0) != (kid == "none") {
				t.Fatal(kid, err)
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzKeySet(f *testing.F) {
	for _, c := range badKeys() {
		f.Add([]byte(setOf(c.key, edKey("good", 1))))
	}
	f.Add([]byte(setOf(jwkOf("r", &testKeys().rsa.PublicKey), jwkOf("e", &testKeys().p256.PublicKey), edKey("o", 1))))
	f.Add([]byte(edKey("one", 1).text()))
	f.Add([]byte(setOf(jwkOf("s", testKeys().secret))))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, warnings, err := ParseKeySet(data)
		if err != nil {
			if set != nil || !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatal(set, err)
			}
			return
		}
		if len(warnings) > maxWarnings+1 || set.Len() > MaxKeys {
			t.Fatal(len(warnings), set.Len())
		}
		// What was read holds to the rules for what was not.
		if _, err := NewKeySet(set.keys...); err != nil {
			t.Fatal(err)
		}
		for _, k := range set.keys {
			if _, secret := k.Public.(SymmetricKey); secret || k.Thumbprint() == "" {
				t.Fatalf("%+v", k)
			}
		}
	})
}

func BenchmarkSourceFind(b *testing.B) {
	s, err := NewSource(SourceConfig{URL: jwksURL}, WithTransport(&issuer{answer: publish(setOf(edKey("a", 1), edKey("b", 2)))}))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for b.Loop() {
		if keys, err := s.Find(b.Context(), "a", "EdDSA"); len(keys) != 1 || err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
}

func BenchmarkParseKeySet(b *testing.B) {
	text := []byte(setOf(jwkOf("r", &testKeys().rsa.PublicKey), jwkOf("e", &testKeys().p256.PublicKey), edKey("o", 1)))
	for b.Loop() {
		if _, _, err := ParseKeySet(text); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
}
