package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

type bot = registry.AgentSpec

// bots makes a request for an agent of acme.
func botOf(id string, change ...func(*bot)) registry.CreateAgentRequest {
	req := registry.CreateAgentRequest{AgentSpec: bot{PrincipalSpec: person{Tenant: "acme", ID: id}}}
	for _, c := range change {
		c(&req.AgentSpec)
	}
	return req
}

func (w *world) agent(id string, change ...func(*bot)) *store.Principal {
	w.t.Helper()
	p, _, err := w.CreateAgent(ctx, root(), botOf(id, change...))
	w.ok(err)
	return p
}

func (w *world) agentNow(tenant, id string) *store.Principal {
	w.t.Helper()
	p, err := w.GetAgent(ctx, root().Actor, tenant, id)
	w.ok(err)
	return p
}

const (
	edKey = `{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
	ecKey = `{"kty":"EC","crv":"P-256","kid":"k2","alg":"ES256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
)

func keySet(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

const (
	spiffe = "spiffe://example.org/agents/researcher"
	print1 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// what the registry keeps of an agent.
func TestCreateAgent(t *testing.T) {
	w := newWorld(t)
	call := root()
	call.RequestID = "once"
	req := botOf("researcher", func(s *bot) {
		s.Name, s.Owner, s.Rights = "Researcher", "alice", rights("r:clerk s:orders.read p:reports.read")
		s.Model, s.Version, s.Purpose = "gpt-4o-mini", "1.4", "reads the news"
		s.TokenRoles, s.Tools = []string{"reader", "reader", "writer"}, []string{"search", "github.*"}
		s.JWKS, s.SPIFFEIDs, s.Certificates = keySet(edKey, ecKey), []string{spiffe}, []string{strings.ToUpper(print1)}
		s.Metadata = map[string]any{"cost_center": "r&d"}
	})
	var versions []int64
	for range 2 {
		p, change, err := w.CreateAgent(ctx, call, req)
		w.ok(err)
		versions = append(versions, p.Version, change.Number)
	}
	if len(slices.Compact(versions)) != 1 {
		t.Errorf("the repeated call made another: %v", versions)
	}
	got := w.agentNow("acme", "researcher")
	want := &store.Agent{
		Model: "gpt-4o-mini", Version: "1.4", Purpose: "reads the news",
		Roles: []string{"reader", "writer"}, Tools: []string{"search", "github.*"},
		SPIFFEIDs: []string{spiffe}, Certificates: []string{print1}, Keys: got.Agent.Keys,
	}
	if diff := cmp.Diff(want, got.Agent); diff != "" {
		t.Error(diff)
	}
	if got.Kind != policy.KindAgent || got.Owner != "alice" || got.Name != "Researcher" || registry.AgentStateOf(got) != registry.AgentActive {
		t.Errorf("%+v", got)
	}
	set, warnings, err := jose.ParseKeySet(got.Agent.Keys)
	if err != nil || len(warnings) > 0 || set.Len() != 2 {
		t.Errorf("%v %v %d", err, warnings, set.Len())
	}
	entries := w.audit(registry.AuditQuery{Action: "agent.create"})
	if len(entries) != 1 || entries[0].Target != "principal/acme/researcher" || entries[0].Tenant != "acme" || entries[0].RequestID != "once" {
		t.Errorf("%+v", entries)
	}
	// It is a principal like others, too.
	if p, err := w.GetPrincipal(ctx, root().Actor, "acme", "researcher"); err != nil || p.Agent == nil {
		t.Errorf("%+v, %v", p, err)
	}
	// Without anything said it can do nothing.
	if a := w.agent("idle"); len(a.Agent.Roles)+len(a.Agent.Tools)+len(a.Agent.Keys)+len(a.Roles)+len(a.Scopes)+len(a.Permissions) != 0 {
		t.Errorf("%+v", a)
	}
}

func TestBadAgents(t *testing.T) {
	w := newWorld(t)
	w.principal(person{Tenant: "acme", ID: "sensor", Kind: policy.KindDevice})
	w.agent("there", func(s *bot) { s.SPIFFEIDs, s.Certificates = []string{spiffe}, []string{print1} })
	for name, tt := range map[string]struct {
		change func(*bot)
		reason registry.Reason
		field  string
	}{
		"no id":              {func(s *bot) { s.ID = "" }, registry.InvalidField, "id"},
		"an id that is odd":  {func(s *bot) { s.ID = "../x" }, registry.InvalidField, "id"},
		"no tenant":          {func(s *bot) { s.Tenant = "nobody" }, registry.NotFound, "tenant"},
		"exists":             {func(s *bot) { s.ID = "there" }, registry.AlreadyExists, "id"},
		"is a user":          {func(s *bot) { s.ID = "alice" }, registry.AlreadyExists, "id"},
		"no owner":           {func(s *bot) { s.Owner = "nobody" }, registry.InvalidField, "owner_id"},
		"its own owner":      {func(s *bot) { s.Owner = "new" }, registry.InvalidField, "owner_id"},
		"a device owns it":   {func(s *bot) { s.Owner = "sensor" }, registry.InvalidField, "owner_id"},
		"model":              {func(s *bot) { s.Model = strings.Repeat("x", 129) }, registry.InvalidField, "model"},
		"version":            {func(s *bot) { s.Version = "1\x00" }, registry.InvalidField, "version"},
		"purpose":            {func(s *bot) { s.Purpose = " x" }, registry.InvalidField, "purpose"},
		"a secret":           {func(s *bot) { s.Purpose = "pst_key_0123456789AB_0123456789012345678901234567890123456789012aaaaaa" }, registry.InvalidField, "purpose"},
		"a role with a star": {func(s *bot) { s.TokenRoles = []string{"reader", "*"} }, registry.InvalidField, "token_roles[1]"},
		"an empty role":      {func(s *bot) { s.TokenRoles = []string{""} }, registry.InvalidField, "token_roles[0]"},
		"a role of others":   {func(s *bot) { s.TokenRoles = []string{registry.PlatformAdmin} }, registry.InvalidField, "token_roles"},
		"a tool":             {func(s *bot) { s.Tools = []string{"a b"} }, registry.InvalidField, "tools[0]"},
		"a tool with stars":  {func(s *bot) { s.Tools = []string{"a.*.b"} }, registry.InvalidField, "tools[0]"},
		"a part of a name":   {func(s *bot) { s.Tools = []string{"ok", "git*"} }, registry.InvalidField, "tools[1]"},
		"another separator":  {func(s *bot) { s.Tools = []string{"git:*"} }, registry.InvalidField, "tools[0]"},
		"a long tool":        {func(s *bot) { s.Tools = []string{strings.Repeat("x", 123)} }, registry.InvalidField, "tools[0]"},
		"many tools":         {func(s *bot) { s.Tools = make([]string, 257) }, registry.InvalidField, "tools"},
		"no SPIFFE id":       {func(s *bot) { s.SPIFFEIDs = []string{"https://example.org/x"} }, registry.InvalidField, "spiffe_ids[0]"},
		"a trust domain":     {func(s *bot) { s.SPIFFEIDs = []string{"spiffe://example.org"} }, registry.InvalidField, "spiffe_ids[0]"},
		"two readings":       {func(s *bot) { s.SPIFFEIDs = []string{"spiffe://example.org/a/../b"} }, registry.InvalidField, "spiffe_ids[0]"},
		"capitals":           {func(s *bot) { s.SPIFFEIDs = []string{"spiffe://Example.org/a"} }, registry.InvalidField, "spiffe_ids[0]"},
		"a star":             {func(s *bot) { s.SPIFFEIDs = []string{"spiffe://example.org/*"} }, registry.InvalidField, "spiffe_ids[0]"},
		"no fingerprint":     {func(s *bot) { s.Certificates = []string{"abc"} }, registry.InvalidField, "certificates[0]"},
		"another's workload": {func(s *bot) { s.SPIFFEIDs = []string{"spiffe://example.org/x", spiffe} }, registry.AlreadyExists, "spiffe_ids[1]"},
		"another's paper":    {func(s *bot) { s.Certificates = []string{print1} }, registry.AlreadyExists, "certificates[0]"},
		"of another tenant":  {func(s *bot) { s.Tenant, s.Certificates = "umbrella", []string{print1} }, registry.AlreadyExists, "certificates[0]"},
		"keys":               {func(s *bot) { s.JWKS = "x" }, registry.InvalidField, "jwks"},
		"metadata":           {func(s *bot) { s.Metadata = map[string]any{"a": strings.Repeat("b", 8<<10)} }, registry.InvalidField, "metadata"},
	} {
		before := w.dump()
		_, _, err := w.CreateAgent(ctx, root(), botOf("new", tt.change))
		t.Run(name, func(t *testing.T) {
			w.refused(err, tt.reason, tt.field)
			if w.dump() != before {
				t.Error("something was changed")
			}
		})
	}
	_, _, err := w.CreateAgent(ctx, root(), botOf("new", func(s *bot) { s.Rights = rights("p:*") }))
	w.refused(err, registry.WildcardNotAllowed, "permissions")
	// All that is wrong is said at once.
	_, _, err = w.CreateAgent(ctx, root(), botOf("", func(s *bot) { s.Tools, s.Model = []string{""}, "\n" }))
	for _, field := range []string{"id", "tools[0]", "model"} {
		w.refused(err, registry.InvalidField, field)
	}
}

// Keys are public, usable, and nothing else of what a JWK may hold is kept.
func TestAgentKeys(t *testing.T) {
	w := newWorld(t)
	with := func(key, members string) string { return strings.Replace(key, "{", "{"+members+",", 1) }
	n := 0
	try := func(jwks string) (*store.Principal, error) {
		n++
		p, _, err := w.CreateAgent(ctx, root(), botOf(fmt.Sprint("a", n), func(s *bot) { s.JWKS = jwks }))
		return p, err
	}
	var many []string
	for i := range 17 {
		many = append(many, strings.Replace(edKey, "k1", fmt.Sprint("k", i), 1))
	}
	for name, jwks := range map[string]string{
		"a private key":         keySet(with(edKey, `"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"`)),
		"a private EC key":      keySet(ecKey, with(strings.Replace(ecKey, "k2", "k3", 1), `"d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"`)),
		"a secret":              keySet(`{"kty":"oct","kid":"k","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`),
		"another type":          keySet(`{"kty":"X","kid":"k"}`),
		"another curve":         keySet(strings.Replace(ecKey, "P-256", "secp256k1", 1)),
		"an alg that misfits":   keySet(strings.Replace(ecKey, "ES256", "ES384", 1)),
		"none":                  keySet(with(edKey, `"alg":"none"`)),
		"a key to encrypt with": keySet(with(edKey, `"use":"enc"`)),
		"off the curve":         keySet(strings.Replace(ecKey, `"y":"x_`, `"y":"y_`, 1)),
		"a short RSA key":       keySet(`{"kty":"RSA","kid":"r","n":"AQAB","e":"AQAB"}`),
		"one kid twice":         keySet(edKey, strings.Replace(ecKey, "k2", "k1", 1)),
		"a member twice":        keySet(`{"kty":"OKP","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`),
		"many":                  keySet(many...),
		"long":                  keySet(with(edKey, `"x5c":["`+strings.Repeat("A", 32<<10)+`"]`)),
		"no list":               `{"keys":{}}`,
		"a list":                `[` + edKey + `]`,
		"two documents":         keySet(edKey) + keySet(ecKey),
	} {
		before := w.dump()
		_, err := try(jwks)
		t.Run(name, func(t *testing.T) {
			e := w.refused(err, registry.InvalidField, "jwks")
			if w.dump() != before || strings.Contains(e.Error(), "nWGxne") || strings.Contains(e.Error(), "jpsQnn") {
				t.Error(e)
			}
		})
	}
	for name, tt := range map[string]struct{ jwks, want string }{
		"none":          {"", ""},
		"an empty set":  {`{"keys":[]}`, ""},
		"one":           {keySet(edKey), keySet(edKey)},
		"a key alone":   {edKey, keySet(edKey)},
		"other members": {keySet(with(edKey, `"x5c":["AAAA"],"note":"hunter2","use":"sig"`)), keySet(with(edKey, `"use":"sig"`))},
		"spaces":        {" {\n \"keys\" : [ " + ecKey + " ], \"note\": 1 }\n", keySet(ecKey)},
	} {
		p, err := try(tt.jwks)
		t.Run(name, func(t *testing.T) {
			w.ok(err)
			if !sameJSON(p.Agent.Keys, tt.want) {
				t.Errorf("%s, want %s", p.Agent.Keys, tt.want)
			}
		})
	}
}

func sameJSON(a json.RawMessage, b string) bool {
	if len(a) == 0 || b == "" {
		return len(a) == 0 && b == ""
	}
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal([]byte(b), &y) == nil && cmp.Equal(x, y)
}

// Whatever the text is, it is refused, or a set that package jose reads whole.
func FuzzAgentKeys(f *testing.F) {
	f.Add(keySet(edKey, ecKey))
	f.Add(edKey)
	f.Add(`{"keys":[{"kty":"oct","k":"AA"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		w := newWorld(t)
		p, _, err := w.CreateAgent(context.Background(), root(), botOf("a", func(s *bot) { s.JWKS = text }))
		if err != nil {
			if registry.ReasonOf(err) != registry.InvalidField {
				t.Fatal(err)
			}
			return
		}
		if len(p.Agent.Keys) == 0 {
			return
		}
		set, warnings, err := jose.ParseKeySet(p.Agent.Keys)
		if err != nil || len(warnings) > 0 || set.Len() == 0 || set.Len() > 16 {
			t.Fatalf("%s: %v %v", p.Agent.Keys, err, warnings)
		}
	})
}

func TestUpdateAgent(t *testing.T) {
	w := newWorld(t)
	update := func(id string, change func(*bot), fields ...string) error {
		spec := bot{PrincipalSpec: person{Tenant: "acme", ID: id}}
		if change != nil {
			change(&spec)
		}
		_, _, err := w.UpdateAgent(ctx, root(), registry.UpdateAgentRequest{Fields: fields, Spec: spec})
		return err
	}
	w.agent("a", func(s *bot) {
		s.Model, s.Tools, s.TokenRoles, s.JWKS = "m1", []string{"x"}, []string{"reader"}, keySet(edKey)
		s.SPIFFEIDs = []string{spiffe}
	})
	w.ok(update("a", func(s *bot) { s.Model, s.Version, s.Tools = "m2", "ignored", nil }, "model"))
	if a := w.agentNow("acme", "a").Agent; a.Model != "m2" || a.Version != "" || len(a.Tools) != 1 || len(a.Keys) == 0 || len(a.SPIFFEIDs) != 1 {
		t.Errorf("%+v", a)
	}
	w.ok(update("a", nil, "tools", "token_roles", "jwks", "spiffe_ids"))
	if a := w.agentNow("acme", "a").Agent; len(a.Tools)+len(a.Roles)+len(a.Keys)+len(a.SPIFFEIDs) != 0 {
		t.Errorf("%+v", a)
	}
	// What it gave up another can be, and then it cannot any more.
	w.agent("b", func(s *bot) { s.SPIFFEIDs = []string{spiffe} })
	w.refused(update("a", func(s *bot) { s.SPIFFEIDs = []string{spiffe} }, "spiffe_ids"), registry.AlreadyExists, "spiffe_ids[0]")
	w.ok(update("b", func(s *bot) { s.SPIFFEIDs = []string{spiffe} }, "spiffe_ids")) // is what it was

	w.refused(update("a", nil, "state"), registry.InvalidField, "update_mask")
	w.refused(update("a", nil, "disabled"), registry.InvalidField, "update_mask")
	w.refused(update("a", nil), registry.InvalidField, "update_mask")
	w.refused(update("nobody", nil, "model"), registry.NotFound, "")
	w.refused(update("alice", nil, "model"), registry.NotFound, "") // is there, and no agent
	_, _, err := w.UpdateAgent(ctx, root(), registry.UpdateAgentRequest{Etag: "v0", Fields: []string{"model"}, Spec: bot{PrincipalSpec: person{Tenant: "acme", ID: "a"}}})
	w.refused(err, registry.EtagMismatch, "etag")

	// Parents form no ring, and no line without end.
	owned := func(by string) func(*bot) { return func(s *bot) { s.Owner = by } }
	w.ok(update("b", owned("a"), "owner_id"))
	w.refused(update("a", owned("b"), "owner_id"), registry.InvalidField, "owner_id")
	w.refused(update("a", owned("a"), "owner_id"), registry.InvalidField, "owner_id")
	above := "b"
	for i := range 15 {
		id := fmt.Sprint("c", i)
		_, _, err = w.CreateAgent(ctx, root(), botOf(id, owned(above)))
		w.ok(err)
		above = id
	}
	_, _, err = w.CreateAgent(ctx, root(), botOf("deep", owned(above)))
	w.refused(err, registry.InvalidField, "owner_id")

	// An agent that was made as any principal becomes one of which more is known.
	w.principal(person{Tenant: "acme", ID: "old", Kind: policy.KindAgent})
	w.ok(update("old", func(s *bot) { s.Model = "m" }, "model"))
	w.agent("x")
	if _, err := w.GetAgent(ctx, root().Actor, "acme", "alice"); registry.ReasonOf(err) != registry.NotFound {
		t.Errorf("a user is an agent: %v", err)
	}
}

// G-09: nobody gives an agent what they do not have themselves.
func TestAgentsGetNoMore(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ has, gets, missing, field string }{
		{"r:reader", "token:reader", "", ""},
		{"r:reader", "token:reader token:writer", "writer", "token_roles"},
		{"", "token:auditor", "auditor", "token_roles"},
		{"r:tenant-admin", "token:tenant-admin", "", ""},
		{"p:tools.search", "tool:search", "", ""},
		{"p:tools.search", "tool:search tool:shell", "tools.shell", "tools"},
		{"p:tools.github.*", "tool:github.issues tool:github.*", "", ""},
		{"p:tools.github.*", "tool:*", "tools.*", "tools"},
		{"p:tools.*", "tool:*", "", ""},
		{"p:*", "tool:github.issues", "", ""},
		{"s:tools.search r:tools.search", "tool:search", "tools.search", "tools"},
		{"", "r:clerk", "clerk", "roles"},
		{"", "", "", ""},
	} {
		req := botOf("new", func(s *bot) {
			s.Rights = rights(tt.gets)
			for item := range strings.FieldsSeq(tt.gets) {
				switch kind, name, _ := strings.Cut(item, ":"); kind {
				case "token":
					s.TokenRoles = append(s.TokenRoles, name)
				case "tool":
					s.Tools = append(s.Tools, name)
				}
			}
		})
		call := with(rights(tt.has))
		call.ValidateOnly = true
		_, _, err := w.CreateAgent(ctx, call, req)
		if tt.missing == "" {
			w.ok(err)
			continue
		}
		if e := w.refused(err, registry.GrantExceedsIssuer, tt.field); e.Meta["missing"] != tt.missing {
			t.Errorf("%+v: %v", tt, e)
		}
	}

	// What an agent had before, anybody who may update it leaves it.
	w.agent("shelled", func(s *bot) { s.Tools, s.TokenRoles = []string{"shell"}, []string{"executor"} })
	spec := bot{PrincipalSpec: person{Tenant: "acme", ID: "shelled"}, Model: "m", Tools: []string{"shell"}}
	w.ok(second(w.UpdateAgent(ctx, with(registry.Rights{}), registry.UpdateAgentRequest{Fields: []string{"model", "tools"}, Spec: spec})))
	spec.Tools = []string{"shell", "search"}
	_, _, err := w.UpdateAgent(ctx, with(registry.Rights{}), registry.UpdateAgentRequest{Fields: []string{"tools"}, Spec: spec})
	w.refused(err, registry.GrantExceedsIssuer, "tools")

	// Narrowed actors pass on no roles.
	narrow := with(rights("r:reader p:tools.search"))
	narrow.Actor.Narrowed = []string{"tools.search"}
	_, _, err = w.CreateAgent(ctx, narrow, botOf("n", func(s *bot) { s.TokenRoles = []string{"reader"} }))
	w.refused(err, registry.GrantExceedsIssuer, "token_roles")
}

// An agent that registers another passes on what it has itself, as long as it comes with
// all that it has.
func TestAgentsOfAgents(t *testing.T) {
	w := newWorld(t)
	w.agent("parent", func(s *bot) {
		s.TokenRoles, s.Tools, s.Rights = []string{"reader"}, []string{"github.*"}, rights("p:postern.agents.create s:a")
	})
	whole := w.key(func(s *spec) { s.Principal = "parent" })
	part := w.key(func(s *spec) { s.Principal, s.Rights = "parent", rights("p:postern.agents.create") })
	foreign := w.key()
	as := func(credential string) registry.Call {
		return registry.Call{Actor: registry.Actor{Tenant: "acme", ID: "parent", Credential: credential, Rights: rights("p:postern.agents.create")}}
	}
	child := func(change func(*bot)) registry.CreateAgentRequest {
		return botOf("child", func(s *bot) {
			s.Owner, s.TokenRoles, s.Tools = "parent", []string{"reader"}, []string{"github.issues"}
			change(s)
		})
	}
	same := func(*bot) {}
	for _, id := range []string{part.ID, foreign.ID, "", "000000000000"} {
		_, _, err := w.CreateAgent(ctx, as(id), child(same))
		w.refused(err, registry.GrantExceedsIssuer, "tools")
	}
	_, _, err := w.CreateAgent(ctx, as(whole.ID), child(func(s *bot) { s.Tools = []string{"shell"} }))
	w.refused(err, registry.GrantExceedsIssuer, "tools")
	_, _, err = w.CreateAgent(ctx, as(whole.ID), child(func(s *bot) { s.TokenRoles = []string{"writer"} }))
	w.refused(err, registry.GrantExceedsIssuer, "token_roles")
	w.ok(second(w.CreateAgent(ctx, as(whole.ID), child(same))))
}

func TestSwitchAgents(t *testing.T) {
	w := newWorld(t)
	w.agent("a", func(s *bot) { s.SPIFFEIDs = []string{spiffe} })
	w.agent("child", func(s *bot) { s.Owner = "a" })
	req := registry.AgentRequest{Tenant: "acme", ID: "a", Reason: "odd"}
	p, change, err := w.DisableAgent(ctx, root(), req)
	w.ok(err)
	if p.Disabled == nil || p.Disabled.Reason != "odd" || p.Disabled.By != "/root" || change.Number != p.Version || change.EffectiveAt.IsZero() || registry.AgentStateOf(p) != registry.AgentDisabled {
		t.Errorf("%+v %+v", p, change)
	}
	again, _, err := w.DisableAgent(ctx, root(), registry.AgentRequest{Tenant: "acme", ID: "a", Reason: "another"})
	w.ok(err)
	if again.Version != p.Version || again.Disabled.Reason != "odd" {
		t.Errorf("%+v", again)
	}
	for _, id := range []string{"a", "child"} {
		w.refused(second(w.IssueCredential(ctx, root(), keyOf(func(s *spec) { s.Principal = id }))), registry.WrongState, "principal_id")
	}
	// Who is off is still who it is.
	_, _, err = w.CreateAgent(ctx, root(), botOf("b", func(s *bot) { s.SPIFFEIDs = []string{spiffe} }))
	w.refused(err, registry.AlreadyExists, "spiffe_ids[0]")
	// What the installation turned off, a tenant does not turn on.
	_, _, err = w.EnableAgent(ctx, of("acme"), req)
	w.refused(err, registry.PermissionDenied, "")
	p, _, err = w.EnableAgent(ctx, root(), registry.AgentRequest{Tenant: "acme", ID: "a", Etag: registry.Etag(p.Version)})
	w.ok(err)
	if p.Disabled != nil || registry.AgentStateOf(p) != registry.AgentActive {
		t.Errorf("%+v", p)
	}
	w.ok(second(w.EnableAgent(ctx, of("acme"), req)))
	w.ok(second(w.DisableAgent(ctx, of("acme"), req)))
	w.ok(second(w.EnableAgent(ctx, of("acme"), req)))
	for _, bad := range []registry.AgentRequest{{Tenant: "acme", ID: "alice"}, {Tenant: "acme", ID: "nobody"}, {ID: "a"}} {
		_, _, err := w.DisableAgent(ctx, root(), bad)
		w.refused(err, registry.NotFound, "")
	}
	_, _, err = w.DisableAgent(ctx, root(), registry.AgentRequest{Tenant: "acme", ID: "a", Reason: "\x00"})
	w.refused(err, registry.InvalidField, "reason")
	_, _, err = w.DisableAgent(ctx, root(), registry.AgentRequest{Tenant: "acme", ID: "a", Etag: "v0"})
	w.refused(err, registry.EtagMismatch, "etag")
}

func TestListAgents(t *testing.T) {
	w := newWorld(t)
	for _, tenant := range []string{"", "acme", "umbrella"} {
		for _, id := range []string{"a", "b", "c"} {
			w.agent(id, func(s *bot) { s.Tenant, s.Owner = tenant, map[string]string{"a": "alice", "b": "a"}[id] })
		}
		w.ok(second(w.DisableAgent(ctx, root(), registry.AgentRequest{Tenant: tenant, ID: "c"})))
	}
	w.ok(second(w.DecommissionAgent(ctx, root(), registry.AgentRequest{Tenant: "umbrella", ID: "a"})))
	for _, tt := range []struct {
		actor registry.Actor
		q     registry.AgentQuery
		want  string
	}{
		{root().Actor, registry.AgentQuery{}, "/a /b /c acme/a acme/b acme/c umbrella/a umbrella/b umbrella/c"},
		{of("acme").Actor, registry.AgentQuery{}, "acme/a acme/b acme/c"},
		{root().Actor, registry.AgentQuery{Tenant: "acme", Owner: "alice"}, "acme/a"},
		{root().Actor, registry.AgentQuery{Tenant: "acme", Owner: "a"}, "acme/b"},
		{root().Actor, registry.AgentQuery{States: []registry.AgentState{registry.AgentDisabled}}, "/c acme/c umbrella/c"},
		{root().Actor, registry.AgentQuery{States: []registry.AgentState{registry.AgentDecommissioned}}, "umbrella/a umbrella/b"},
		{root().Actor, registry.AgentQuery{Tenant: "umbrella", States: []registry.AgentState{registry.AgentActive}}, ""},
	} {
		var got []string
		q := tt.q
		for q.Size = 2; ; {
			some, next, err := w.ListAgents(ctx, tt.actor, q)
			w.ok(err)
			for _, p := range some {
				got = append(got, p.Key())
			}
			if q.Token = next; next == "" {
				break
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%+v: %v", tt.q, got)
		}
	}
	_, _, err := w.ListAgents(ctx, root().Actor, registry.AgentQuery{States: []registry.AgentState{"GONE"}})
	w.refused(err, registry.InvalidField, "states")
	_, _, err = w.ListAgents(ctx, of("acme").Actor, registry.AgentQuery{Tenant: "umbrella"})
	w.refused(err, registry.NotFound, "")
	_, next, err := w.ListAgents(ctx, root().Actor, registry.AgentQuery{Page: registry.Page{Size: 1}})
	w.ok(err)
	_, _, err = w.ListAgents(ctx, root().Actor, registry.AgentQuery{Page: registry.Page{Token: next}, Tenant: "acme"})
	w.refused(err, registry.InvalidField, "page_token")
}

// Two living agents are never one workload, whatever is done in which order.
func TestWorkloadsAreOneAgent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		names := []string{spiffe, spiffe + "/2", print1}
		ids := []string{"a", "b", "c"}
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			id := rapid.SampledFrom(ids).Draw(t, "id")
			spec := bot{PrincipalSpec: person{Tenant: "acme", ID: id}}
			for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID).Draw(t, "names") {
				if name == print1 {
					spec.Certificates = append(spec.Certificates, name)
				} else {
					spec.SPIFFEIDs = append(spec.SPIFFEIDs, name)
				}
			}
			switch rapid.IntRange(0, 3).Draw(t, "do") {
			case 0:
				_, _, _ = w.CreateAgent(ctx, root(), registry.CreateAgentRequest{AgentSpec: spec})
			case 1:
				_, _, _ = w.UpdateAgent(ctx, root(), registry.UpdateAgentRequest{Fields: []string{"spiffe_ids", "certificates"}, Spec: spec})
			case 2:
				_, _, _ = w.DecommissionAgent(ctx, root(), registry.AgentRequest{Tenant: "acme", ID: id})
			case 3:
				_, _, _ = w.DeletePrincipal(ctx, root(), registry.DeletePrincipalRequest{Tenant: "acme", ID: id})
			}
			is := map[string]string{}
			all, _, err := w.ListAgents(ctx, root().Actor, registry.AgentQuery{})
			w.ok(err)
			for _, p := range all {
				if p.Decommissioned() {
					continue
				}
				for _, name := range append(slices.Clone(p.Agent.SPIFFEIDs), p.Agent.Certificates...) {
					if is[name] != "" {
						t.Fatalf("%s is %s and %s", name, is[name], p.ID)
					}
					is[name] = p.ID
				}
			}
			claimed := map[string]string{}
			w.ok(w.store.View(ctx, func(from store.Reader) error {
				list, err := store.List[store.Workload](from, store.Query{})
				for _, l := range list {
					claimed[l.Name] = l.Agent
				}
				return err
			}))
			if diff := cmp.Diff(is, claimed); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
