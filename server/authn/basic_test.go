package authn_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/vectortest"
)

// find reads an authorization field under a rule for Basic.
func find(t testing.TB, value string, use policy.Method) (*authn.Credential, error) {
	t.Helper()
	at, err := authn.ParseLocation("header:authorization/basic")
	if err != nil {
		t.Fatal(err)
	}
	extractor := authn.NewExtractor([]authn.Rule{{From: at, Uses: []policy.Method{use}}})
	a := &policy.Attributes{Headers: policy.Headers{{Name: "authorization", Value: value}}}
	found, err := extractor.Find(nil, a, &policy.Request{}, nil)
	if err != nil || len(found) != 1 {
		return nil, err
	}
	return &found[0], nil
}

func pair(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }

// P-04: a token that comes as the password of Basic is the same token, whatever the
// user-id. B-02: what does not read as a pair is refused, and never taken for
// something else.
func TestBasic(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 128)
	for value, want := range map[string][2]string{
		pair("alice:pst_pat_x"): {"alice", "pst_pat_x"}, pair(":token"): {"", "token"}, pair("a:b:c"): {"a", "b:c"}, pair("a::"): {"a", ":"},
		pair("jürgen:pässword"): {"jürgen", "pässword"}, pair(long + ":" + long): {long, long},
		"bASIC dXNlcm5hbWU6cGFzc3dvcmQ=": {"username", "password"},
	} {
		c, err := find(t, value, policy.MethodPAT)
		if err != nil || c.User != want[0] || c.Secret.Reveal() != want[1] || c.Scheme != "basic" || c.Header != "authorization" {
			t.Errorf("%.40s: %+v, %v", value, c, err)
		}
	}
	for _, value := range []string{
		pair("no colon"), pair("user:"), pair(":"), pair("a:b\x00"), pair("a:b\n"), pair("a:\x7f"), pair("a\t:b"), pair("a:\u0085"), pair("a:\xff"),
		pair("a" + long + ":b"), pair("a:b" + long), pair("a:" + strings.Repeat("x", 2000)),
		"Basic dXNlcm5hbWU6cGFzc3dvcmQ", "Basic dXNlcm5hbWU6cGFzc3dvcmR=", "Basic dXNl\ncm5hbWU6cGFzc3dvcmQ=", "Basic !", "Basic", "Basic ",
	} {
		c, err := find(t, value, policy.MethodPAT)
		var refusal *authn.Refusal
		if c != nil || !errors.As(err, &refusal) || refusal.Reason != policy.ReasonCredentialMalformed {
			t.Errorf("%.40s: %+v, %v", value, c, err)
		}
	}
}

// B-02: every vector whose user may get in is read as that user; what cannot be read
// at all is a refusal. Whether a password fits is for the authenticator.
func TestBasicVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, Authorization, Expect string
		User                      *string
	}
	read, refused := 0, 0
	for _, v := range vectortest.Lines[vector](t, "http/basic.jsonl") {
		c, err := find(t, v.Authorization, policy.MethodBasic)
		switch {
		case err != nil:
			refused++
			if v.Expect == "allow" {
				t.Errorf("%s: %v", v.ID, err)
			}
		default:
			read++
			if v.Expect == "allow" && c.User != *v.User {
				t.Errorf("%s: user %q", v.ID, c.User)
			}
		}
	}
	t.Logf("%d read, %d refused", read, refused)
}

// No text makes it panic; what it finds is the one pair that the text encodes, and is
// within bounds.
func FuzzBasic(f *testing.F) {
	f.Add("dXNlcm5hbWU6cGFzc3dvcmQ=")
	f.Add("Om9wZW4gc2VzYW1l")
	f.Add(strings.Repeat("QUFB", 171))
	f.Fuzz(func(t *testing.T, token string) {
		c, err := find(t, "Basic "+token, policy.MethodBasic)
		if err != nil {
			return
		}
		text := c.User + ":" + c.Secret.Reveal()
		switch {
		case base64.StdEncoding.EncodeToString([]byte(text)) != token:
			t.Errorf("%q is read as %q", token, text)
		case c.Secret.Reveal() == "" || strings.Contains(c.User, ":") || len(c.User) > authn.MaxUser || len(c.Secret.Reveal()) > authn.MaxPassword:
			t.Errorf("%q is out of bounds", text)
		case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
			t.Errorf("%q is no text", text)
		}
	})
}

func BenchmarkBasic(b *testing.B) {
	at, _ := authn.ParseLocation("header:authorization/basic")
	extractor := authn.NewExtractor([]authn.Rule{{From: at, Uses: []policy.Method{policy.MethodBasic}}})
	a := &policy.Attributes{Headers: policy.Headers{{Name: "authorization", Value: pair("alice:correct horse battery staple")}}}
	var buf [4]authn.Credential
	b.ReportAllocs()
	for b.Loop() {
		if _, err := extractor.Find(buf[:0], a, &policy.Request{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
