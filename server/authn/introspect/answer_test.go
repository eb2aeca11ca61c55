package introspect_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/introspect"
)

// ask returns what comes of an answer.
func ask(t testing.TB, body string) (*authn.Proof, error) {
	t.Helper()
	return made(t, &issuer{answer: always(200, "application/json", body)}, config()).Authenticate(t.Context(), credential("opaque"))
}

// INTROSPECT-01, INTROSPECT-02: whatever an answer is made of, a proof needs active to be
// the boolean true, an audience that is ours, an end that is to come, and somebody whom
// it is about.
func TestOnlyGoodAnswers(t *testing.T) {
	t.Parallel()
	values := map[string][]any{
		"active":     {true, true, true, false, "true", 1, nil, []bool{true}},
		"aud":        {"orders", "orders", []string{"x", "orders"}, "payments", []any{"orders", 1}, nil},
		"iss":        {issuerURL, issuerURL, issuerURL + "/", nil, 1},
		"exp":        {start.Unix() + 60, start.Unix() + 60, start.Unix() - 3600, 0, "9999999999", 1e300},
		"nbf":        {start.Unix() - 60, start.Unix() - 60, start.Unix() + 3600},
		"sub":        {"alice", "alice", "", 7, nil, "al\u202eice"},
		"token_type": {"Bearer", "Bearer", "DPoP", "refresh_token", "mac"},
	}
	names := []string{"active", "aud", "iss", "exp", "nbf", "sub", "token_type"}
	rapid.Check(t, func(rt *rapid.T) {
		m := members{}
		for _, name := range names {
			if n := rapid.IntRange(-1, len(values[name])-1).Draw(rt, name); n >= 0 {
				m[name] = values[name][n]
			}
		}
		text := m.json()
		proof, err := ask(t, text)
		good := m["active"] == true && (m["aud"] == "orders" || has(m["aud"], "orders")) &&
			(m["iss"] == issuerURL || !there(m, "iss")) && (!there(m, "exp") || m["exp"] == start.Unix()+60) &&
			(!there(m, "nbf") || m["nbf"] == start.Unix()-60) && m["sub"] == "alice" && (!there(m, "token_type") || m["token_type"] == "Bearer")
		if (proof != nil) != good || (err == nil) != good {
			rt.Fatalf("%s: %s (%v), want a proof: %v", text, outcome(proof, err), err, good)
		}
		if refusal := (*authn.Refusal)(nil); errors.As(err, &refusal) {
			if _, isBool := m["active"].(bool); !isBool {
				rt.Fatalf("%s was taken for an answer: %v", text, err)
			}
		}
	})
}

func there(m members, name string) bool { _, ok := m[name]; return ok }

func has(list any, name string) bool {
	texts, ok := list.([]string)
	if !ok {
		return false
	}
	for _, t := range texts {
		if t == name {
			return true
		}
	}
	return false
}

// FuzzAnswer: no answer makes a panic, or a proof without what it must have.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		active("alice").json(), `{"active":false}`, `{"active":true}`, "", "[]", `{"active":true,"active":false}`,
		active("a").with("cnf", members{"jkt": "x"}).json(), active("a").with("act", members{"act": members{}}).json(), active("a").with("aud", []int{1}).json(),
	} {
		f.Add(seed)
	}
	i := &issuer{}
	a, err := introspect.New(config(), introspect.Deps{Now: clock, Transport: i})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		i.will(always(200, "application/json", body))
		proof, err := a.Authenticate(t.Context(), credential("opaque"))
		if (proof == nil) == (err == nil) {
			t.Fatal("neither a proof nor an error, or both")
		}
		if proof == nil {
			return
		}
		p := proof.Principal
		if p.ID == "" || p.Kind == "" || p.Issuer != issuerURL || !proof.NotAfter.IsZero() && !proof.NotAfter.After(start) {
			t.Errorf("%+v", p)
		}
		// What one parser takes for active, no other may take for something else.
		var other map[string]any
		if json.Unmarshal([]byte(body), &other) != nil || other["active"] != true {
			t.Errorf("another reader does not find it active: %q", body)
		}
	})
}

// The cost of an answer once it is there, and of asking without a network: what a cold
// token costs besides the issuer.
func BenchmarkCold(b *testing.B) {
	i := &issuer{}
	i.set("opaque", active("alice").json())
	cfg := config()
	a := made(b, i, cfg)
	c := credential("opaque")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// The cost of a token whose answer is remembered.
func BenchmarkWarm(b *testing.B) {
	i := &issuer{}
	i.set("opaque", active("alice").json())
	cfg := config()
	cache := cfg.CacheConfig()
	cache.Now = func() time.Time { return start }
	a := authn.NewCached(made(b, i, cfg), cache)
	c := credential("opaque")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
