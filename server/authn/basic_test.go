package authn_test

import (
	"encoding/base64"
	"errors"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// P-04: a token that comes as the password of Basic is the same token; what does not
// read as a pair is refused, and never taken for something else.
func TestBasic(t *testing.T) {
	t.Parallel()
	at, err := authn.ParseLocation("header:authorization/basic")
	if err != nil {
		t.Fatal(err)
	}
	extractor := authn.NewExtractor([]authn.Rule{{From: at, Uses: []policy.Method{policy.MethodPAT}}})
	find := func(value string) (string, error) {
		a := &policy.Attributes{Headers: policy.Headers{{Name: "authorization", Value: value}}}
		found, err := extractor.Find(nil, a, &policy.Request{}, nil)
		if err != nil || len(found) != 1 {
			return "", err
		}
		return found[0].Secret.Reveal(), nil
	}
	pair := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	for value, want := range map[string]string{
		pair("alice:pst_pat_x"): "pst_pat_x", pair(":token"): "token", pair("a:b:c"): "b:c", pair("jürgen:pässword"): "pässword",
		"bASIC dXNlcm5hbWU6cGFzc3dvcmQ=": "password",
	} {
		if got, err := find(value); got != want || err != nil {
			t.Errorf("%s: %q, %v", value, got, err)
		}
	}
	for _, value := range []string{
		pair("no colon"), pair("user:"), pair("a:b\x00"), pair("a:b\n"), pair("a:\x7f"), pair("a:\xff"),
		"Basic dXNlcm5hbWU6cGFzc3dvcmQ", "Basic dXNlcm5hbWU6cGFzc3dvcmR=", "Basic !", "Basic", pair("a:" + string(make([]byte, 2000))),
	} {
		var refusal *authn.Refusal
		if got, err := find(value); got != "" || !errors.As(err, &refusal) || refusal.Reason != policy.ReasonCredentialMalformed {
			t.Errorf("%.40s: %q, %v", value, got, err)
		}
	}
}

// No text makes it panic, and what it returns was in the text.
func FuzzBasic(f *testing.F) {
	at, err := authn.ParseLocation("header:authorization/basic")
	if err != nil {
		f.Fatal(err)
	}
	extractor := authn.NewExtractor([]authn.Rule{{From: at, Uses: []policy.Method{policy.MethodPAT}}})
	f.Add("dXNlcm5hbWU6cGFzc3dvcmQ=")
	f.Fuzz(func(t *testing.T, token string) {
		a := &policy.Attributes{Headers: policy.Headers{{Name: "authorization", Value: "Basic " + token}}}
		found, err := extractor.Find(nil, a, &policy.Request{}, nil)
		if err == nil && (len(found) != 1 || found[0].Secret.Reveal() == "") {
			t.Fatalf("%q: %d credentials", token, len(found))
		}
	})
}
