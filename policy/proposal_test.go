package policy_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
)

func payment() policy.Proposal {
	return policy.Proposal{
		Version: 1, Approver: policy.ApproverHuman, Route: "payments",
		Requester: policy.Requester{
			Tenant: "acme", ID: "ann", Kind: policy.KindUser, Issuer: "https://idp.test",
			Actors: []policy.ProposedActor{{ID: "bot", Kind: policy.KindAgent}},
		},
		Request: &policy.ProposedRequest{
			Method: "POST", Scheme: "https", Host: "bank.test", Target: "/pay?to=7&amount=1",
			Headers: [][2]string{{"content-type", "application/json"}},
			Body:    strings.Repeat("ab", 32), Length: 12,
		},
		Tools: []policy.ProposedTool{{Name: "pay", Arguments: json.RawMessage(`{"amount":1}`)}},
	}
}

func encode(t testing.TB, p policy.Proposal) policy.Proposed {
	t.Helper()
	text, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// a byte of anything makes it another action.
func TestProposalsDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	try := func(what string, change func(p *policy.Proposal)) {
		p := payment()
		change(&p)
		digest := encode(t, p).Action
		if other, taken := seen[digest]; taken {
			t.Errorf("%s is the same action as %s", what, other)
		}
		seen[digest] = what
	}
	try("nothing", func(*policy.Proposal) {})
	for what, change := range map[string]func(p *policy.Proposal){
		"approver":          func(p *policy.Proposal) { p.Approver = policy.ApproverAdmin },
		"route":             func(p *policy.Proposal) { p.Route = "payment" },
		"requester":         func(p *policy.Proposal) { p.Requester.ID = "Ann" },
		"its tenant":        func(p *policy.Proposal) { p.Requester.Tenant = "acme2" },
		"its kind":          func(p *policy.Proposal) { p.Requester.Kind = policy.KindService },
		"its issuer":        func(p *policy.Proposal) { p.Requester.Issuer = "https://idp.test/" },
		"nobody acts":       func(p *policy.Proposal) { p.Requester.Actors = nil },
		"another acts":      func(p *policy.Proposal) { p.Requester.Actors[0].ID = "bob" },
		"one more acts":     func(p *policy.Proposal) { p.Requester.Actors = append(p.Requester.Actors, p.Requester.Actors[0]) },
		"tenant":            func(p *policy.Proposal) { p.Tenant = "acme" },
		"method":            func(p *policy.Proposal) { p.Request.Method = "PUT" },
		"scheme":            func(p *policy.Proposal) { p.Request.Scheme = "http" },
		"host":              func(p *policy.Proposal) { p.Request.Host = "bank.tes" },
		"port":              func(p *policy.Proposal) { p.Request.Port = 8443 },
		"query":             func(p *policy.Proposal) { p.Request.Target = "/pay?to=7&amount=2" },
		"escapes":           func(p *policy.Proposal) { p.Request.Target = "/%70ay?to=7&amount=1" },
		"content-type":      func(p *policy.Proposal) { p.Request.Headers[0][1] = "application/json;" },
		"a field more":      func(p *policy.Proposal) { p.Request.Headers = append(p.Request.Headers, p.Request.Headers[0]) },
		"no fields":         func(p *policy.Proposal) { p.Request.Headers = nil },
		"body":              func(p *policy.Proposal) { p.Request.Body = strings.Repeat("ac", 32) },
		"length":            func(p *policy.Proposal) { p.Request.Length++ },
		"no body":           func(p *policy.Proposal) { p.Request.Body, p.Request.Length = "", 0 },
		"model":             func(p *policy.Proposal) { p.Model = "m" },
		"category":          func(p *policy.Proposal) { p.Category = "m" },
		"call":              func(p *policy.Proposal) { p.Call = "m" },
		"tool":              func(p *policy.Proposal) { p.Tools[0].Name = "pay2" },
		"arguments":         func(p *policy.Proposal) { p.Tools[0].Arguments = json.RawMessage(`{"amount":10}`) },
		"text for a number": func(p *policy.Proposal) { p.Tools[0].Arguments = json.RawMessage(`{"amount":"1"}`) },
		"schema":            func(p *policy.Proposal) { p.Tools[0].Schema = "x" },
		"no tool":           func(p *policy.Proposal) { p.Tools = nil },
		"twice the tool":    func(p *policy.Proposal) { p.Tools = append(p.Tools, p.Tools[0]) },
	} {
		try(what, change)
	}
}

// Whatever is said can be read back, and is then the same: so no two say the same.
func TestProposalIsReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		p := policy.Proposal{
			Version: 1, Approver: rapid.SampledFrom([]policy.Approver{"human", "admin"}).Draw(t, "approver"), Route: text.Draw(t, "route"),
			Requester: policy.Requester{ID: "x" + text.Draw(t, "id"), Kind: "agent", Issuer: text.Draw(t, "issuer"), Tenant: text.Draw(t, "tenant")},
			Deed:      &policy.ProposedDeed{Name: "x" + text.Draw(t, "name"), ResourceID: text.Draw(t, "resource")},
		}
		if rapid.Bool().Draw(t, "how") {
			how, err := policy.Propose(map[string]any{text.Draw(t, "k"): text.Draw(t, "v")})
			if err != nil {
				t.Skip()
			}
			p.Deed.ActionProperties = how
		}
		if rapid.Bool().Draw(t, "tool") {
			tool, err := policy.ProposeTool(&policy.ToolCall{Name: "x", Arguments: map[string]any{text.Draw(t, "k"): text.Draw(t, "v"), "n": rapid.Float64().Draw(t, "n")}})
			if err != nil {
				t.Skip()
			}
			p.Tools = []policy.ProposedTool{tool}
		}
		out, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := policy.ParseProposal(out.Text)
		if err != nil {
			t.Fatal(err)
		}
		again, err := back.Encode()
		if err != nil || again != out || !reflect.DeepEqual(*back, p) {
			t.Fatalf("%v: %s became %s", err, out.Text, again.Text)
		}
	})
}

// Who sends it on may write the JSON in another way; what it means is what counts.
func TestProposalInAnotherForm(t *testing.T) {
	t.Parallel()
	want := encode(t, payment())
	var pretty map[string]any
	if err := json.Unmarshal([]byte(want.Text), &pretty); err != nil {
		t.Fatal(err)
	}
	text, _ := json.MarshalIndent(pretty, "", "  ")
	back, err := policy.ParseProposal(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := encode(t, *back); got != want {
		t.Errorf("%s\n%s", got.Text, want.Text)
	}
}

// What cannot be said exactly is not said at all.
func TestNoProposal(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(p *policy.Proposal){
		"no version":         func(p *policy.Proposal) { p.Version = 0 },
		"nobody to approve":  func(p *policy.Proposal) { p.Approver = "" },
		"another approver":   func(p *policy.Proposal) { p.Approver = "nobody" },
		"nobody asks":        func(p *policy.Proposal) { p.Requester.ID = "" },
		"anonymous":          func(p *policy.Proposal) { p.Requester.Kind = policy.KindAnonymous },
		"no request":         func(p *policy.Proposal) { p.Request = nil },
		"two":                func(p *policy.Proposal) { p.Deed = &policy.ProposedDeed{Name: "x"} },
		"no target":          func(p *policy.Proposal) { p.Request.Target = "" },
		"no digest":          func(p *policy.Proposal) { p.Request.Body = "" },
		"short digest":       func(p *policy.Proposal) { p.Request.Body = "ab" },
		"no length":          func(p *policy.Proposal) { p.Request.Length = 0 },
		"bytes in a header":  func(p *policy.Proposal) { p.Request.Headers[0][1] = "\xff" },
		"bytes in a name":    func(p *policy.Proposal) { p.Requester.ID = "a\x80" },
		"bytes in arguments": func(p *policy.Proposal) { p.Tools[0].Arguments = json.RawMessage("\"\xff\"") },
		"no JSON":            func(p *policy.Proposal) { p.Tools[0].Arguments = json.RawMessage(`{`) },
		"too long":           func(p *policy.Proposal) { p.Request.Target = "/" + strings.Repeat("x", policy.MaxProposal) },
		"nameless tool":      func(p *policy.Proposal) { p.Tools[0].Name = "" },
		"two arguments":      func(p *policy.Proposal) { p.Tools[0].Digest = strings.Repeat("ab", 32) },
	} {
		p := payment()
		change(&p)
		if out, err := p.Encode(); err == nil {
			t.Errorf("%s: %s", what, out.Text)
		}
	}
	text := encode(t, payment()).Text
	for _, bad := range []string{
		"", "{}", "null", text + "{}", text[1:], "[" + text + "]", strings.Replace(text, `"version":1`, `"version":2`, 1),
		strings.Replace(text, `"route"`, `"root"`, 1), text + strings.Repeat(" ", policy.MaxProposal), "\xff" + text,
	} {
		if p, err := policy.ParseProposal(bad); err == nil {
			t.Errorf("%.60q is %v", bad, p)
		}
	}
	if _, err := policy.ProposeTool(&policy.ToolCall{Name: "x", Arguments: []any{map[string]any{"\xff": 1}}}); err == nil {
		t.Error("arguments that are no text")
	}
}

// Long arguments are bound by their digest.
func TestLongArguments(t *testing.T) {
	t.Parallel()
	digests := map[string]bool{}
	for _, end := range []string{"a", "b"} {
		tool, err := policy.ProposeTool(&policy.ToolCall{Name: "x", Arguments: strings.Repeat("x", 5000) + end})
		if err != nil || tool.Arguments != nil {
			t.Fatal(err, tool)
		}
		digests[tool.Digest] = true
	}
	if len(digests) != 2 {
		t.Error("the same digest")
	}
}

func TestProposalForPeople(t *testing.T) {
	t.Parallel()
	p := payment()
	p.Requester.Actors[0].ID = "bot\x1b[2J\u202e"
	want := `POST https://bank.test/pay?to=7&amount=1 with 12 bytes of SHA-256 ` + strings.Repeat("ab", 32) +
		`, calling pay({"amount":1}), by ann of acme through bot\x1b[2J\u202e`
	if got := p.String(); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func FuzzParseProposal(f *testing.F) {
	f.Add(encode(f, payment()).Text)
	f.Add(`{"version":1,"approver":"admin","requester":{"id":"a","kind":"agent"},"action":{"name":"x","properties":{"a":[1e400,"\ud800"]}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.ParseProposal(text)
		if err != nil {
			return
		}
		_ = p.String()
		out, err := p.Encode()
		if err != nil {
			return
		}
		back, err := policy.ParseProposal(out.Text)
		if err != nil {
			t.Fatalf("%q: %v", out.Text, err)
		}
		if again, err := back.Encode(); err != nil || again != out {
			t.Fatalf("%q became %q: %v", out.Text, again.Text, err)
		}
	})
}
