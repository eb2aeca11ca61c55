package jose

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// svidKey is a key of a SPIFFE bundle.
func svidKey(kid string, seed byte) object { return edKey(kid, seed).with("use", "jwt-svid") }

// bundleOf is a bundle in JSON.
func bundleOf(more string, keys ...object) string {
	return strings.TrimSuffix(setOf(keys...), "}") + more + "}"
}

// SPIFFE Trust Domain and Bundle, section 4: which keys of a bundle count.
func TestParseBundle(t *testing.T) {
	t.Parallel()
	set, warnings, err := ParseBundle([]byte(bundleOf(`,"spiffe_sequence":7,"spiffe_refresh_hint":300,"other":{}`,
		svidKey("a", 1),
		edKey("x509", 2).with("use", "x509-svid"),
		edKey("none", 3),
		edKey("sig", 4).with("use", "sig"),
		edKey("case", 5).with("use", "JWT-SVID"),
		svidKey("b", 6),
	)))
	if err != nil || len(warnings) > 0 || set.Len() != 2 {
		t.Fatalf("%d keys, %q, %v", set.Len(), warnings, err)
	}
	mustFind(t, set, "a")
	mustFind(t, set, "b")
	mustNotKnow(t, set, "x509")
	mustNotKnow(t, set, "none")
	if got := set.refreshHint(-1); got != 5*time.Minute {
		t.Errorf("refreshed after %s", got)
	}
	if got := set.refreshHint(time.Minute); got != time.Minute {
		t.Errorf("refreshed after %s", got)
	}

	set, warnings, err = ParseBundle([]byte(bundleOf("", svidKey("", 1), svidKey("a", 2), svidKey("a", 3), svidKey("s", 4).with("kty", "oct", "k", "c2VjcmV0"))))
	if err != nil || set.Len() != 0 || len(warnings) != 4 {
		t.Errorf("%d keys, %q, %v", set.Len(), warnings, err)
	}
	if set.refreshHint(-1) != -1 {
		t.Error("a hint that nobody gave")
	}
	if _, _, err := ParseBundle([]byte(`{"keys":[]}`)); err != nil {
		t.Errorf("an empty bundle: %v", err)
	}
	for _, bad := range []string{
		``, `[]`, `{}`, `{"keys":{}}`, edKey("a", 1).text(), `{"keys":[],"keys":[]}`,
		`{"keys":[],"spiffe_sequence":"1"}`, `{"keys":[],"spiffe_sequence":-1}`, `{"keys":[],"spiffe_sequence":1.5}`, `{"keys":[],"spiffe_sequence":1e3}`,
		`{"keys":[],"spiffe_sequence":99999999999999999999}`, `{"keys":[],"spiffe_refresh_hint":"1"}`, `{"keys":[],"spiffe_refresh_hint":null}`,
	} {
		if _, _, err := ParseBundle([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if set, _, err := ParseBundle([]byte(`{"keys":[],"spiffe_refresh_hint":9000000000000000000}`)); err != nil || set.refreshHint(-1) != maxRefreshHint*time.Second {
		t.Errorf("a long hint: %v", err)
	}
}

// C-05 and SPIFFE Trust Domain and Bundle, section 4.1: an empty bundle distrusts all, an
// older one does not count, and the hint says when to look again.
func TestBundleSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: publish(bundleOf(`,"spiffe_sequence":10,"spiffe_refresh_hint":120`, svidKey("a", 1), svidKey("b", 2)))}
		s := source(t, i, SourceConfig{URL: jwksURL, Bundle: true})
		mustFind(t, s, "a")
		if next := s.Status().Next.Sub(time.Now()); next > 2*time.Minute {
			t.Errorf("the next fetch is due in %s", next)
		}

		i.will(publish(bundleOf(`,"spiffe_sequence":11`, svidKey("b", 2))))
		reload(t, s, nil)
		mustNotKnow(t, s, "a")
		mustFind(t, s, "b")

		i.will(publish(bundleOf(`,"spiffe_sequence":10`, svidKey("a", 1), svidKey("b", 2))))
		reload(t, s, errOldBundle)
		mustFail(t, s, "a") // nobody knows: newer keys cannot be had
		mustFind(t, s, "b")

		epoch := s.Epoch()
		i.will(publish(`{"keys":[],"spiffe_sequence":12}`))
		reload(t, s, nil)
		mustNotKnow(t, s, "b")
		if s.Epoch() == epoch || !s.Status().Usable {
			t.Error("an empty bundle is an answer, and another one")
		}

		i.will(status(503, "try later"))
		if err := s.Reload(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}

func reload(t *testing.T, s *Source, want error) {
	t.Helper()
	if err := s.Reload(t.Context()); !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}

// The owner of a file may put an older bundle back.
func TestBundleFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bundle.json")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(bundleOf(`,"spiffe_sequence":2`, svidKey("b", 2)))
	s, err := NewSource(SourceConfig{File: file, Bundle: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	mustFind(t, s, "b")
	write(bundleOf(`,"spiffe_sequence":1`, svidKey("a", 1)))
	reload(t, s, nil)
	mustFind(t, s, "a")
	write(`{"keys":[]}`)
	reload(t, s, nil)
	mustNotKnow(t, s, "a")
}

// FuzzParseBundle: no bundle makes a panic, or a key without a name.
func FuzzParseBundle(f *testing.F) {
	f.Add(bundleOf(`,"spiffe_sequence":7,"spiffe_refresh_hint":300`, svidKey("a", 1), edKey("x", 2).with("use", "x509-svid")))
	f.Add(`{"keys":[{"use":"jwt-svid","kid":"a"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		set, _, err := ParseBundle([]byte(text))
		if err != nil {
			return
		}
		for _, k := range set.keys {
			if k.ID == "" {
				t.Fatal("a key without a name")
			}
		}
		if hint := set.refreshHint(-1); hint < -1 || hint > maxRefreshHint*time.Second {
			t.Fatal(hint)
		}
	})
}

// RFC 7515 section 4.1.3 and RFC 7638 section 3.1: a key in a header, and its name.
func TestEmbeddedKey(t *testing.T) {
	t.Parallel()
	header := func(key string) Value {
		v, err := ParseJSON([]byte(`{"alg":"RS256","jwk":`+key+`}`), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	rfc7638 := `{"kty":"RSA","alg":"RS256","kid":"2011-04-29","e":"AQAB","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}`
	key, err := EmbeddedKey(header(rfc7638))
	if err != nil || key.Thumbprint() != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("%v", err)
	}
	for name, bad := range map[string]string{
		"private":   edKey("", 1).with("d", "AQAB").text(),
		"symmetric": `{"kty":"oct","k":"` + base64.RawURLEncoding.EncodeToString(make([]byte, 32)) + `"}`,
		"mixed":     edKey("", 1).with("k", "AQAB").text(),
		"for SVIDs": svidKey("", 1).text(),
		"text":      `"key"`, "null": `null`, "empty": `{}`,
	} {
		if key, err := EmbeddedKey(header(bad)); key != nil || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := EmbeddedKey(Value{}); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}
