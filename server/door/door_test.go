package door_test

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

func TestCaller(t *testing.T) {
	if got := door.Caller(context.Background()); got != "" {
		t.Errorf("nobody is %q", got)
	}
	if got := door.Caller(door.WithCaller(context.Background(), "edge")); got != "edge" {
		t.Errorf("edge is %q", got)
	}
}

// Only an allow that is one in every way stays one.
func TestSettle(t *testing.T) {
	whole := policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, ID: "d", Upstream: []policy.Header{{Name: "x", Value: "y"}}}
	half, wrong, torn := whole, whole, whole
	half.Allowed, wrong.Reason, torn.Upstream = false, policy.ReasonExpired, []policy.Header{{Name: "x", Value: "a\nb"}}
	torn2 := whole
	torn2.Client = []policy.Header{{Name: "X", Value: "y"}}
	for name, c := range map[string]struct {
		dec  policy.Decision
		want policy.Reason
	}{
		"zero": {policy.Decision{}, policy.ReasonUnspecified}, "whole": {whole, policy.ReasonAllowed}, "half": {half, policy.ReasonUnspecified},
		"wrong reason": {wrong, policy.ReasonExpired}, "torn": {torn, policy.ReasonInternal}, "torn for the client": {torn2, policy.ReasonInternal},
	} {
		d := c.dec
		door.Settle(&d)
		if d.Reason != c.want || d.Allowed != (name == "whole") || d.ID != c.dec.ID {
			t.Errorf("%s: %+v", name, d)
		}
		if !d.Allowed && len(d.Upstream) > 0 && name != "wrong reason" {
			t.Errorf("%s: keeps %v", name, d.Upstream)
		}
	}
}

// Lower is strings.ToLower for ASCII and leaves the rest alone.
func TestLower(t *testing.T) {
	for in, want := range map[string]string{"": "", "X-Api-Key": "x-api-key", "x": "x", "x-api-\u212Aey": "x-api-\u212Aey", "\u00C4A": "\u00C4a", "A\xff": "a\xff"} {
		if got := door.Lower(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	ascii := func(b []byte) bool {
		for i := range b {
			b[i] &= 0x7f
		}
		return door.Lower(string(b)) == strings.ToLower(string(b))
	}
	if err := quick.Check(ascii, nil); err != nil {
		t.Error(err)
	}
}

func TestSendable(t *testing.T) {
	for _, h := range []policy.Header{{Name: "x", Value: ""}, {Name: "x-1_a", Value: "a\tb \u00e9"}} {
		if !door.Sendable(h) {
			t.Errorf("%q is not sendable", h)
		}
	}
	for _, h := range []policy.Header{{}, {Value: "a"}, {Name: "X"}, {Name: "a b"}, {Name: ":path"}, {Name: "a\x00"}, {Name: "\u00e9"},
		{Name: "a", Value: "\r"}, {Name: "a", Value: "\n"}, {Name: "a", Value: "\x00"}, {Name: "a", Value: "\x7f"}, {Name: "a", Value: "\xff"}} {
		if door.Sendable(h) {
			t.Errorf("%q is sendable", h)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, c := range []struct{ in, want any }{
		{nil, nil}, {true, true}, {"s", "s"}, {1.5, 1.5}, {7, 7.0}, {int64(7), 7.0}, {json.Number("2.5"), 2.5}, {json.Number("x"), nil},
		{json.Number("1e999"), nil}, {math.NaN(), nil}, {math.Inf(-1), nil}, {[]string{"a"}, []any{"a"}}, {map[string]string{"a": "b"}, map[string]any{"a": "b"}},
		{[]any{1}, []any{1}}, {struct{}{}, nil}, {policy.NewSecret("s"), nil},
	} {
		if diff := cmp.Diff(c.want, door.JSON(c.in)); diff != "" {
			t.Errorf("%v: %s", c.in, diff)
		}
	}
}

// The language follows the method, the content type and Accept.
func TestLanguage(t *testing.T) {
	for _, c := range []struct {
		method, contentType, accept string
		want                        door.Language
	}{
		{"GET", "", "", door.LanguageJSON},
		{"GET", "", "*/*", door.LanguageJSON},
		{"GET", "", "text/plain", door.LanguageText},
		{"GET", "", "TEXT/Plain ; q=0.5, application/json;q=0.4", door.LanguageText},
		{"GET", "", "text/*, application/json;q=0.9", door.LanguageText},
		{"GET", "", "text/plain, application/json", door.LanguageJSON},
		{"GET", "", "text/plain;q=0.1, */*", door.LanguageJSON},
		{"GET", "", "application/*;q=0, text/*;q=0.1", door.LanguageText},
		{"GET", "", "text/plain;q=2", door.LanguageJSON},
		{"GET", "", "text/plain;q=x", door.LanguageJSON},
		{"GET", "", "text/plain;q=NaN", door.LanguageJSON},
		{"GET", "", "text/html", door.LanguageJSON},
		{"GET", "", "text/plain," + strings.Repeat("a/b,", 1000), door.LanguageJSON},
		{"POST", "application/grpc", "text/plain", door.LanguageGRPC},
		{"POST", "application/grpc-web+proto", "", door.LanguageGRPC},
		{"HEAD", "application/grpc", "text/plain", door.LanguageNone},
	} {
		a := &policy.Attributes{Method: c.method}
		for name, v := range map[string]string{"content-type": c.contentType, "accept": c.accept} {
			if v != "" {
				a.Headers = append(a.Headers, policy.Header{Name: name, Value: v})
			}
		}
		if got := door.LanguageOf(a); got != c.want {
			t.Errorf("%.60q %q %s: %v, want %v", c.accept, c.contentType, c.method, got, c.want)
		}
	}
}

// Any Accept is read without a panic, and chooses between the two.
func FuzzAccept(f *testing.F) {
	f.Add("text/plain;q=0.5, application/json;q=0.4, */*")
	f.Fuzz(func(t *testing.T, accept string) {
		l := door.LanguageOf(&policy.Attributes{Method: "GET", Headers: policy.Headers{{Name: "accept", Value: accept}}})
		if l != door.LanguageText && l != door.LanguageJSON {
			t.Errorf("%q: %v", accept, l)
		}
	})
}

func TestRetrySeconds(t *testing.T) {
	for in, want := range map[time.Duration]int64{1: 1, time.Second: 1, time.Second + 1: 2, 90 * time.Second: 90} {
		if got := door.RetrySeconds(in); got != want {
			t.Errorf("%v is %d, want %d", in, got, want)
		}
	}
}
