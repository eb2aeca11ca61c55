package authn_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/vectortest"
)

func cookies(t testing.TB, names ...string) *authn.Extractor {
	t.Helper()
	var all []authn.Rule
	for _, name := range names {
		all = append(all, authn.Rule{From: location(t, "cookie:"+name), Uses: []policy.Method{"session"}})
	}
	return authn.NewExtractor(all)
}

func fields(values ...string) policy.Headers {
	var h policy.Headers
	for _, v := range values {
		h = append(h, policy.Header{Name: "cookie", Value: v})
	}
	return h
}

func findCookies(t *testing.T, e *authn.Extractor, values ...string) ([]authn.Credential, string) {
	t.Helper()
	creds, err := e.Find(nil, &policy.Attributes{Headers: fields(values...)}, &policy.Request{}, nil)
	if err != nil {
		return nil, describe(t, nil, err)
	}
	return creds, describe(t, creds, nil)
}

// S-04 and T-02: what is a session cookie, and what is refused in its place.
func TestFindCookie(t *testing.T) {
	t.Parallel()
	const at = "cookie:__Host-session="
	tests := []struct {
		name   string
		fields []string
		want   string
	}{
		{"none", nil, ""},
		{"one", []string{"__Host-session=abc"}, at + "abc"},
		{"among others", []string{"a=b; __Host-session=abc; c=d"}, at + "abc"},
		{"in a second field", []string{"a=b", "__Host-session=abc"}, at + "abc"},
		{"equals signs in the value", []string{"__Host-session=a=b="}, at + "a=b="},
		{"quoted", []string{`__Host-session="abc"`}, at + "abc"},
		{"twice the same", []string{"__Host-session=abc; __Host-session=abc"}, at + "abc"},
		{"twice the same, once quoted", []string{`__Host-session=abc; __Host-session="abc"`}, at + "abc"},
		{"twice the same in two fields", []string{"__Host-session=abc", "__Host-session=abc"}, at + "abc"},
		{"another case", []string{"__host-session=abc"}, ""},
		{"a no-break space before", []string{"\u00a0__Host-session=abc"}, ""},
		{"inside another value", []string{"a=__Host-session=abc"}, ""},
		{"name alone", []string{"__Host-session"}, ""},
		{"other cookies are odd", []string{`a="b; c=d; $Version=1`}, ""},
		{"JSON in another", []string{`p={"a":1}; __Host-session=abc`}, at + "abc"},
		{"an inch in another", []string{`p=12"; __Host-session=abc`}, at + "abc"},
		{"quoted other", []string{`p="a b"; __Host-session=abc`}, at + "abc"},

		{"two values", []string{"__Host-session=abc; __Host-session=abd"}, "multiple_credentials"},
		{"two values in two fields", []string{"__Host-session=abc", "__Host-session=abd"}, "multiple_credentials"},
		{"empty", []string{"__Host-session="}, "credential_malformed"},
		{"empty and good", []string{"__Host-session=; __Host-session=abc"}, "credential_malformed"},
		{"empty quotes", []string{`__Host-session=""`}, "credential_malformed"},
		{"open quote", []string{`__Host-session="abc`}, "credential_malformed"},
		{"closed quote", []string{`__Host-session=abc"`}, "credential_malformed"},
		{"quote inside", []string{`__Host-session="a"c"`}, "credential_malformed"},
		{"backslash", []string{`__Host-session=a\bc`}, "credential_malformed"},
		{"comma", []string{"__Host-session=abc,a=b"}, "credential_malformed"},
		{"space inside", []string{"__Host-session=a bc"}, "credential_malformed"},
		{"space before the value", []string{"__Host-session= abc"}, "credential_malformed"},
		{"space behind the name", []string{"__Host-session =abc"}, "credential_malformed"},
		{"tab behind the name", []string{"__Host-session\t=abc"}, "credential_malformed"},
		{"NUL", []string{"__Host-session=abc\x00"}, "credential_malformed"},
		{"line break", []string{"__Host-session=a\nbc"}, "credential_malformed"},
		{"not ASCII", []string{"__Host-session=ä"}, "credential_malformed"},
		{"too large", []string{"__Host-session=" + strings.Repeat("x", 4097)}, "token_too_large"},
		{"in another's open quote", []string{`a="b; __Host-session=abc; c=d"`}, "multiple_credentials"},
		{"in another's quote with a backslash", []string{`a="b\"; __Host-session=abc`}, "multiple_credentials"},
		{"behind a lone quote", []string{`"; __Host-session=abc`}, "multiple_credentials"},
		{"before an open quote", []string{`__Host-session=abc; a="b`}, "multiple_credentials"},
		{"$Version", []string{"$Version=1; __Host-session=abc"}, "multiple_credentials"},
		{"$version in a later field", []string{"__Host-session=abc", "$version=1"}, "multiple_credentials"},
		{"too many", []string{strings.Repeat("a=b;", 256) + "__Host-session=abc"}, "credential_malformed"},
		{"too many empty ones", []string{strings.Repeat(";", 100_000)}, "credential_malformed"},
	}
	e := cookies(t, "__Host-session")
	for _, tt := range tests {
		creds, got := findCookies(t, e, tt.fields...)
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		for _, c := range creds {
			if c.Cookie != "__Host-session" || c.Header != "" {
				t.Errorf("%s: %+v", tt.name, c)
			}
		}
	}
}

// Cookies of two rules are two credentials, and so is one beside a header's.
func TestFindTwoCookies(t *testing.T) {
	t.Parallel()
	if _, got := findCookies(t, cookies(t, "sid", "jwt"), "jwt=a; sid=b"); got != "cookie:jwt=a cookie:sid=b" {
		t.Error(got)
	}
	e := authn.NewExtractor(append(rules(t), authn.Rule{From: location(t, "cookie:sid"), Uses: []policy.Method{"session"}}))
	creds, err := e.Find(nil, &policy.Attributes{Headers: append(fields("sid=b"), policy.Header{Name: "x-api-key", Value: "k"})}, &policy.Request{}, nil)
	if got := describe(t, creds, err); got != "header:x-api-key=k cookie:sid=b" {
		t.Error(got)
	}
	creds, err = authn.NewExtractor(rules(t)).Find(nil, &policy.Attributes{Headers: fields("sid=b")}, &policy.Request{}, nil)
	if got := describe(t, creds, err); got != "" {
		t.Errorf("without a rule: %s", got)
	}
}

// A session that is handed over apart from the headers is still known as a cookie's.
func TestPresentedCookie(t *testing.T) {
	t.Parallel()
	creds, err := cookies(t, "sid").Find(nil, &policy.Attributes{Presented: &policy.Presented{Use: "session", Secret: policy.NewSecret("abc")}}, &policy.Request{}, nil)
	if err != nil || len(creds) != 1 || creds[0].Cookie != "sid" {
		t.Errorf("%v, %v", creds, err)
	}
}

type cookieVector struct {
	ID     string  `json:"id"`
	Cookie string  `json:"cookie"`
	Name   string  `json:"name"`
	Value  *string `json:"value"`
	Expect string  `json:"expect"`
}

// S-04: the shared vectors. What must be found is found, and no other reading of a
// field gives the session's value.
func TestCookieVectors(t *testing.T) {
	t.Parallel()
	const secret = "S3cr3tSessionValue"
	all := vectortest.Lines[cookieVector](t, "http/cookies.jsonl")
	classes := map[string]int{}
	for _, v := range all {
		creds, got := findCookies(t, cookies(t, v.Name), v.Cookie)
		found := len(creds) == 1 && creds[0].Secret.Reveal() == secret
		ok := false
		switch v.Expect {
		case "value":
			ok = found && v.Value != nil && *v.Value == secret
		case "no-session":
			ok = !found
		case "no-session-or-first":
			ok = len(creds) == 0
		}
		if !ok {
			t.Errorf("%s: %q gives %.60q, want %s", v.ID, v.Cookie, got, v.Expect)
		}
		classes[v.Expect]++
	}
	t.Logf("%d vectors: %v", len(all), classes)
}

// Whatever the field, what is found stands in it as a pair of its own, and what goes
// on upstream holds the other pairs, in order, and ours no more.
func FuzzCookie(f *testing.F) {
	for _, s := range []string{"sid=a", "a=b; sid=a", `sid="a"`, `a="x; sid=a"`, "sid=a; sid=b", "$Version=1; sid=a", "sid =a", ";;=;a", "sid=\xff"} {
		f.Add(s, "c=d")
	}
	e := cookies(f, "sid")
	f.Fuzz(func(t *testing.T, one, two string) {
		a := &policy.Attributes{Headers: fields(one, two)}
		creds, err := e.Find(nil, a, &policy.Request{}, nil)
		if err == nil && len(creds) > 1 || err != nil && len(creds) > 1 {
			t.Fatalf("%d credentials", len(creds))
		}
		pairs := strings.Split(one+";"+two, ";")
		if err == nil && len(creds) == 1 {
			value := creds[0].Secret.Reveal()
			if !contains(pairs, "sid="+value) && !contains(pairs, `sid="`+value+`"`) {
				t.Fatalf("%q is not in %q", value, pairs)
			}
		}
		others := e.OtherCookies(a.Headers)
		again, _ := e.Find(nil, &policy.Attributes{Headers: fields(others)}, &policy.Request{}, nil)
		if len(again) != 0 || e.OtherCookies(fields(others)) != others {
			t.Fatalf("%q goes upstream", others)
		}
		for _, p := range pairs {
			p = strings.Trim(p, " \t")
			name, _, _ := strings.Cut(p, "=")
			if strings.Trim(name, " \t") != "sid" && strings.ToValidUTF8(p, "") == p && p != "" && !contains(strings.Split(others, ";"), p) {
				t.Fatalf("%q is lost: %q", p, others)
			}
		}
	})
}

func contains(pairs []string, want string) bool {
	for _, p := range pairs {
		if strings.Trim(p, " \t") == want {
			return true
		}
	}
	return false
}

// A cookie among any others that browsers may send is found.
func TestCookieAmongOthers(t *testing.T) {
	t.Parallel()
	e := cookies(t, "sid")
	octet := rapid.StringMatching(`[!#-+\-.-:<-\[\]-~]{0,20}`)
	rapid.Check(t, func(r *rapid.T) {
		value := rapid.StringMatching(`[A-Za-z0-9_]{1,80}`).Draw(r, "value")
		pairs := []string{"sid=" + value}
		for range rapid.IntRange(0, 20).Draw(r, "others") {
			pairs = append(pairs, rapid.StringMatching(`[a-z]{4,8}`).Draw(r, "name")+"="+octet.Draw(r, "other"))
		}
		field := strings.Join(rapid.Permutation(pairs).Draw(r, "order"), "; ")
		creds, err := e.Find(nil, &policy.Attributes{Headers: fields(field)}, &policy.Request{}, nil)
		if err != nil || len(creds) != 1 || creds[0].Secret.Reveal() != value {
			r.Fatalf("%q: %v, %v", field, creds, err)
		}
	})
}

// A cookie is found with no more allocations than a header.
func TestFindCookieHardlyAllocates(t *testing.T) {
	e := cookies(t, "__Host-session")
	a := &policy.Attributes{Headers: fields("theme=dark; __Host-session=abc; lang=en")}
	q := &policy.Request{}
	buf := make([]authn.Credential, 0, authn.MaxCredentials)
	if n := testing.AllocsPerRun(100, func() {
		if creds, err := e.Find(buf, a, q, nil); err != nil || len(creds) != 1 {
			t.Fatal(creds, err)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
