package authn_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

func location(t testing.TB, text string) authn.Location {
	t.Helper()
	l, err := authn.ParseLocation(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func rules(t testing.TB) []authn.Rule {
	return []authn.Rule{
		{From: location(t, "header:x-api-key"), Uses: []policy.Method{"api_key"}},
		{From: location(t, "header:authorization/bearer"), Uses: []policy.Method{"api_key", "jwt"}},
		{From: location(t, "header:authorization/apikey"), Uses: []policy.Method{"api_key"}},
		{From: location(t, "query:api_key"), Uses: []policy.Method{"api_key"}},
	}
}

// whole is what stands behind the prefix and the kind of a key.
const whole = "_live_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA000000"

const key = "pst_key_live_0123456789abAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA000000"

// T-02 and G-14: what is found where, and what is refused there.
func TestFind(t *testing.T) {
	t.Parallel()
	legacy := &policy.Route{InsecureQueryCredential: "api_key"}
	jws := "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"
	tests := []struct {
		name    string
		headers policy.Headers
		query   string
		route   *policy.Route
		want    string // "from=secret …" or the reason
	}{
		{"nothing", nil, "", nil, ""},
		{"api key", policy.Headers{{Name: "x-api-key", Value: "sk_live_abc123def456ghi789"}}, "", nil, "header:x-api-key=sk_live_abc123def456ghi789"},
		{"bearer", policy.Headers{{Name: "authorization", Value: "Bearer a.b.c"}}, "", nil, "header:authorization/bearer=a.b.c"},
		{"any case of the scheme", policy.Headers{{Name: "authorization", Value: "bEaReR a.b.c="}}, "", nil, "header:authorization/bearer=a.b.c="},
		{"scheme ApiKey", policy.Headers{{Name: "authorization", Value: "ApiKey abc"}}, "", nil, "header:authorization/apikey=abc"},
		{"two places", policy.Headers{{Name: "x-api-key", Value: "k"}, {Name: "authorization", Value: "Bearer t"}}, "", nil, "header:x-api-key=k header:authorization/bearer=t"},
		{"one place twice", policy.Headers{{Name: "x-api-key", Value: "k"}, {Name: "x-api-key", Value: "k"}}, "", nil, "header:x-api-key=k header:x-api-key=k"},
		{"other places", policy.Headers{{Name: "x-auth-token", Value: "k"}, {Name: "proxy-authorization", Value: "Bearer t"}, {Name: "x_api_key", Value: "k"}}, "", nil, ""},

		{"joined fields", policy.Headers{{Name: "authorization", Value: "Bearer a,Bearer b"}}, "", nil, "credential_malformed"},
		{"joined keys", policy.Headers{{Name: "x-api-key", Value: "a,b"}}, "", nil, "credential_malformed"},
		{"empty field", policy.Headers{{Name: "authorization", Value: ""}}, "", nil, "credential_malformed"},
		{"empty key", policy.Headers{{Name: "x-api-key", Value: ""}}, "", nil, "credential_malformed"},
		{"scheme alone", policy.Headers{{Name: "authorization", Value: "Bearer"}}, "", nil, "credential_malformed"},
		{"blank token", policy.Headers{{Name: "authorization", Value: "Bearer "}}, "", nil, "credential_malformed"},
		{"two spaces", policy.Headers{{Name: "authorization", Value: "Bearer  a"}}, "", nil, "credential_malformed"},
		{"two words", policy.Headers{{Name: "authorization", Value: "Bearer a x"}}, "", nil, "credential_malformed"},
		{"tab", policy.Headers{{Name: "authorization", Value: "Bearer\ta"}}, "", nil, "credential_malformed"},
		{"parameters", policy.Headers{{Name: "authorization", Value: `Bearer token="a"`}}, "", nil, "credential_malformed"},
		{"line break", policy.Headers{{Name: "authorization", Value: "Bearer a\r\nx: y"}}, "", nil, "credential_malformed"},
		{"no scheme", policy.Headers{{Name: "authorization", Value: jws}}, "", nil, "unsupported_scheme"},
		{"another scheme", policy.Headers{{Name: "authorization", Value: "Negotiate abc"}}, "", nil, "unsupported_scheme"},
		{"a longer scheme", policy.Headers{{Name: "authorization", Value: "BearerX abc"}}, "", nil, "unsupported_scheme"},

		{"query name", nil, "a=b&access_token=x", nil, "credential_in_query"},
		{"query name in disguise", nil, "API-Key=x", nil, "credential_in_query"},
		{"query name encoded", nil, "api%5Fkey=x", nil, "credential_in_query"},
		{"query shape", nil, "page=" + key, nil, "credential_in_query"},
		{"query shape of a JWS", nil, "t=" + jws, nil, "credential_in_query"},
		{"query name of a field", nil, "x-access-token=x", nil, "credential_in_query"},
		{"query name of a field in disguise", nil, "X_Auth.Token=x", nil, "credential_in_query"},
		{"query name of a list", nil, "access_token[]=x", nil, "credential_in_query"},
		{"query name of an element, encoded", nil, "api_key%5B0%5D=x", nil, "credential_in_query"},
		{"query name after a blank", nil, "+access_token=x", nil, "credential_in_query"},
		{"query that is a key", nil, key, nil, "credential_in_query"},
		{"query name that is a key, encoded", nil, strings.ReplaceAll(key, "_", "%5f") + "=1", nil, "credential_in_query"},
		{"query name that is a JWS", nil, "a=1&" + jws, nil, "credential_in_query"},
		{"query after a semicolon", nil, "x=1;key=" + key, nil, "credential_in_query"},
		{"query name after a semicolon", nil, "x=1;access_token=x", nil, "credential_in_query"},
		{"query shape with another prefix", nil, "next=acme_key" + whole, nil, "credential_in_query"},
		{"query shape of another kind, cut off", nil, "next=acme_ses" + whole[:len(whole)-3], nil, "credential_in_query"},
		{"query of a cursor", nil, "cursor=next_key_" + strings.Repeat("A", 60), nil, ""},
		{"query of a long name", nil, "constraint=foreign_key_orders_customer_id_references_customers_id_cascade", nil, ""},
		{"query shape after a scheme", nil, "next=Bearer+acme_key" + whole, nil, "credential_in_query"},
		{"query with a good header", policy.Headers{{Name: "x-api-key", Value: "k"}}, "access_token=x", nil, "credential_in_query"},
		{"harmless query", nil, "token=next-page&x=/../../", nil, ""},
		{"harmless names", nil, "x=1;y=2&filter[a]=1&[]=2&x&acme_key_board=1&next=acme_key_board;;&=&" + strings.Repeat("a_key_", 3), nil, ""},
		{"legacy route", nil, "api_key=k%31", legacy, "query:api_key=k1"},
		{"legacy route, name in disguise", nil, "%61pi_key=k", legacy, "credential_in_query"},
		{"legacy route, another name", nil, "access_token=k", legacy, "credential_in_query"},
		{"legacy route, twice", nil, "api_key=a&api_key=b", legacy, "query:api_key=a query:api_key=b"},
		{"legacy route, after a semicolon", nil, "a=1;api_key=k", legacy, "credential_in_query"},
		{"legacy route, a second after a semicolon", nil, "api_key=k;api_key=l", legacy, "credential_malformed"},
		{"legacy route, empty", nil, "api_key=", legacy, "credential_malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := authn.NewExtractor(rules(t))
			creds, err := e.Find(nil, &policy.Attributes{Headers: tt.headers}, &policy.Request{Query: tt.query}, tt.route)
			if got := describe(t, creds, err); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func describe(t *testing.T, creds []authn.Credential, err error) string {
	t.Helper()
	var refusal *authn.Refusal
	if errors.As(err, &refusal) {
		if refusal.Reason.Status() != 401 {
			t.Errorf("%v is not a 401", refusal.Reason)
		}
		return refusal.Reason.String()
	} else if err != nil {
		return err.Error()
	}
	var all []string
	for _, c := range creds {
		all = append(all, c.From+"="+c.Secret.Reveal())
	}
	return strings.Join(all, " ")
}

func TestFindPresented(t *testing.T) {
	t.Parallel()
	e := authn.NewExtractor(rules(t))
	find := func(use, secret string) string {
		creds, err := e.Find(nil, &policy.Attributes{Presented: &policy.Presented{Use: use, Secret: policy.NewSecret(secret)}}, &policy.Request{}, nil)
		return describe(t, creds, err)
	}
	for _, tt := range [][3]string{
		{"api_key", "k", "request:api_key=k"},
		{"bearer", "a.b.c", "request:bearer=a.b.c"},
		{"session", "s", "unsupported_scheme"},
		{"bearer", "", "credential_malformed"},
		{"bearer", "a b", "credential_malformed"},
	} {
		if got := find(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s %q: got %q, want %q", tt[0], tt[1], got, tt[2])
		}
	}
}

// The order in which a rule asks its methods makes no difference to who may hand over
// what; of two rules, the one that asks the method first is taken.
func TestFindPresentedInAnyOrder(t *testing.T) {
	t.Parallel()
	find := func(use string, rules ...authn.Rule) string {
		creds, err := authn.NewExtractor(rules).Find(nil, &policy.Attributes{Presented: &policy.Presented{Use: use, Secret: policy.NewSecret("k")}}, &policy.Request{}, nil)
		if err != nil || len(creds) != 1 {
			return describe(t, creds, err)
		}
		return fmt.Sprint(creds[0].Uses, creds[0].Cookie)
	}
	header := authn.Rule{From: location(t, "header:x-api-key"), Uses: []policy.Method{"pat", "api_key"}}
	both := authn.Rule{From: location(t, "cookie:app"), Uses: []policy.Method{"app_session", "session"}}
	own := authn.Rule{From: location(t, "cookie:own"), Uses: []policy.Method{"session"}}
	query := authn.Rule{From: location(t, "query:k"), Uses: []policy.Method{"api_key"}}
	bearer := authn.Rule{From: location(t, "header:authorization/bearer"), Uses: []policy.Method{"jwt", "api_key"}}
	for _, tt := range []struct {
		use   string
		rules []authn.Rule
		want  string
	}{
		{"api_key", []authn.Rule{header}, "[pat api_key]"},
		{"pat", []authn.Rule{header}, "[pat api_key]"},
		{"session", []authn.Rule{both}, "[app_session session]app"},
		{"session", []authn.Rule{both, own}, "[session]own"},
		{"session", []authn.Rule{own, both}, "[session]own"},
		{"session", []authn.Rule{header}, "unsupported_scheme"},
		{"api_key", []authn.Rule{query, bearer}, "unsupported_scheme"},
		{"bearer", []authn.Rule{header, bearer}, "[jwt api_key]"},
		{"", []authn.Rule{header}, "unsupported_scheme"},
	} {
		if got := find(tt.use, tt.rules...); got != tt.want {
			t.Errorf("%s by %v: %s, want %s", tt.use, tt.rules, got, tt.want)
		}
	}
}

func TestFindBoundsItsWork(t *testing.T) {
	t.Parallel()
	e := authn.NewExtractor(rules(t))
	var headers policy.Headers
	for range 100 {
		headers = append(headers, policy.Header{Name: "x-api-key", Value: "k"})
	}
	_, err := e.Find(nil, &policy.Attributes{Headers: headers}, &policy.Request{}, nil)
	if got := describe(t, nil, err); got != "multiple_credentials" {
		t.Errorf("got %q", got)
	}
}

func TestParseLocation(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "header:", "header:a b", "header:authorization", "header:authorization/", "header:x-api-key/bearer", "cookie:", "cookie:a b", "cookie:a/b", "cookie:$Version", "header:cookie", "query:", "x-api-key", "header:x:y"} {
		if l, err := authn.ParseLocation(bad); err == nil {
			t.Errorf("%q is accepted as %v", bad, l)
		}
	}
	l := location(t, "header:Authorization/Bearer")
	if l.Header() != "authorization" || l.Scheme() != "bearer" {
		t.Errorf("%q %q", l.Header(), l.Scheme())
	}
}

// The warm path allocates to find a credential no more than what keeps it from
// being printed.
func TestFindHardlyAllocates(t *testing.T) {
	e := authn.NewExtractor(rules(t))
	a := &policy.Attributes{Headers: policy.Headers{{Name: "user-agent", Value: "x"}, {Name: "authorization", Value: "Bearer a.b.c"}}}
	q := &policy.Request{Query: "page=2&order=asc"}
	buf := make([]authn.Credential, 0, authn.MaxCredentials)
	if n := testing.AllocsPerRun(100, func() {
		if creds, err := e.Find(buf, a, q, nil); err != nil || len(creds) != 1 {
			t.Fatal(creds, err)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever stands in the authorization header, what is found is the very text
// after one scheme and one space.
func FuzzFind(f *testing.F) {
	for _, s := range []string{"Bearer a", "bearer a=", "ApiKey x", "Bearer a, Bearer b", "\x00", "Bearer \xff"} {
		f.Add(s, "a=b&api_key=c")
	}
	e := authn.NewExtractor(rules(f))
	f.Fuzz(func(t *testing.T, field, query string) {
		creds, err := e.Find(nil, &policy.Attributes{Headers: policy.Headers{{Name: "authorization", Value: field}}}, &policy.Request{Query: query}, nil)
		if err != nil {
			return
		}
		if len(creds) != 1 {
			t.Fatalf("%d credentials", len(creds))
		}
		scheme := creds[0].From[strings.IndexByte(creds[0].From, '/')+1:]
		if !strings.EqualFold(field[:len(scheme)], scheme) || field[len(scheme):] != " "+creds[0].Secret.Reveal() {
			t.Fatalf("%q gives %q", field, creds[0].Secret.Reveal())
		}
	})
}

// A query is refused for a credential's name however the name is encoded.
func TestCredentialNameSurvivesEncoding(t *testing.T) {
	t.Parallel()
	e := authn.NewExtractor(rules(t))
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"access_token", "api_key", "authorization", "x-api-key", "apikey", "id_token"}).Draw(t, "name")
		var b strings.Builder
		for i := range len(name) {
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				b.WriteByte(name[i])
			case 1:
				b.WriteString(strings.ToUpper(name[i : i+1]))
			default:
				b.WriteString("%" + string("0123456789abcdef"[name[i]>>4]) + string("0123456789abcdef"[name[i]&15]))
			}
		}
		_, err := e.Find(nil, &policy.Attributes{}, &policy.Request{Query: "x=1&" + b.String() + "=v"}, nil)
		var refusal *authn.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != policy.ReasonCredentialInQuery {
			t.Fatalf("%q: %v", b.String(), err)
		}
	})
}
