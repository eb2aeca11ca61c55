package check_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/target"
)

// newTenantWorld is a world whose policy allows everything, and whose requests name
// tenants in every place there is.
func newTenantWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	path := func(text string) target.Template {
		p, err := target.ParseTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	reader, err := target.New(target.Config{Tenancy: []target.Rule{
		{Path: path("/tenants/{tenant}/**")},
		{Path: path("/v1/conversations/{conversation}"), Separator: ":"},
		{Header: "x-tenant"},
		{Query: "tenant"},
		{Body: "/tenant", Routes: []string{"llm"}},
		{Body: "/model", Type: "model", Separator: "/", Shared: []string{"gpt-4o"}, Routes: []string{"llm"}},
		{Resource: "collection", Separator: "/"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Targets = reader
	anything := func(text string) []policy.PathPattern {
		p, err := policy.ParsePathPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		return []policy.PathPattern{p}
	}
	w.cfg.Routes = []policy.Route{
		{Name: "llm", Paths: anything("/llm/**")},
		{Name: "both", Paths: anything("/both/**"), AllOf: []policy.Method{"api_key", "jwt"}},
		{Name: "public", Paths: anything("/public/**"), Anonymous: true},
		{Name: "wide", Paths: anything("/wide/**"), InstallationWide: true},
		{Name: "wide-public", Paths: anything("/wide-public/**"), InstallationWide: true, Anonymous: true},
	}
	return w
}

func of(id, tenant string, method policy.Method) *authn.Proof {
	p := proof(id, method)
	p.Principal.Tenant = tenant
	return p
}

// whatever the policy says, and whoever else is proven beside.
func TestTenantIsolation(t *testing.T) {
	t.Parallel()
	w := newTenantWorld(t)
	w.proofs["other"], w.proofs["none"] = of("mallory", "other", "api_key"), of("operator", "", "api_key")
	w.proofs["nonejwt"] = of("operator", "", "jwt")
	const yes, no = policy.ReasonAllowed, policy.ReasonTenant
	for _, c := range []struct {
		path   string
		fields []string
		want   policy.Reason
	}{
		{"/tenants/acme/x", []string{"x-api-key", "key"}, yes},
		{"/tenants/acme/x", []string{"x-api-key", "other"}, no},
		{"/tenants/acme/x", []string{"x-api-key", "none"}, no},
		{"/tenants/ACME/x", []string{"x-api-key", "key"}, no},
		{"/TENANTS/acme/x", []string{"x-api-key", "key"}, yes},
		{"/TENANTS/acme/x", []string{"x-api-key", "other"}, no},
		{"/v1/conversations/acme:7", []string{"x-api-key", "key"}, yes},
		{"/v1/conversations/acme:7", []string{"x-api-key", "other"}, no},
		{"/v1/conversations/7", []string{"x-api-key", "key"}, no},
		{"/x", []string{"x-api-key", "other", "x-tenant", "acme"}, no},
		{"/x?tenant=other", []string{"x-api-key", "other"}, yes},
		{"/x?tenant=other&tenant=acme", []string{"x-api-key", "other"}, no},
		{"/tenants/acme/x?tenant=other", []string{"x-api-key", "key"}, no}, // BUDGET-07
		{"/both/x?tenant=acme", []string{"x-api-key", "key", "authorization", "Bearer jwt"}, yes},
		{"/both/x?tenant=acme", []string{"x-api-key", "key", "authorization", "Bearer nonejwt"}, no},
		{"/public/x?tenant=acme", nil, no},
		{"/public/x", nil, yes},
		{"/wide/x?tenant=acme", []string{"x-api-key", "none"}, yes},
		{"/wide/x?tenant=acme", []string{"x-api-key", "other"}, no},
		{"/wide/x?tenant=acme", []string{"x-api-key", "key"}, yes},
		{"/wide-public/x?tenant=acme", nil, no},
	} {
		a := request(c.fields...)
		a.Path = c.path
		w.decider.asked = 0
		d := w.check(t, a)
		if d.Reason != c.want {
			t.Errorf("%s %q: %v (%s), want %v", c.path, c.fields, d.Reason, d.Detail, c.want)
		}
		if c.want == no && (w.decider.asked > 0 || d.Phase != policy.PhaseHold) {
			t.Errorf("%s: the policy was asked", c.path)
		}
	}
}

// A target that names something without saying whose it is does not pass, whoever made
// it.
func TestUnownedIsDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Targets = targets{&policy.Target{Resources: []policy.Resource{{Type: "x", From: "path"}}}}
	w.proofs["key"] = of("operator", "", "api_key")
	want(t, w.check(t, request("x-api-key", "key")), policy.ReasonTenant, policy.PhaseHold)
}

type targets struct{ target *policy.Target }

func (f targets) Read(*policy.Attributes, *policy.Request, *policy.Route) (*policy.Target, error) {
	return f.target, nil
}

// An allow for one body is not one for another, whatever the route says of reuse.
func TestBodiesAreNotReused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Routes = route(func(r *policy.Route) { r.CacheTTL = time.Minute })
	for _, c := range []struct {
		target *policy.Target
		reused bool
	}{
		{nil, true},
		{&policy.Target{Resources: []policy.Resource{{Tenant: "acme", From: "path"}}}, true},
		{&policy.Target{Resources: []policy.Resource{{Tenant: "acme", From: "body:/tenant"}}}, false},
		{&policy.Target{Protocol: "openai", Model: "mini"}, false},
	} {
		w.cfg.Targets = targets{c.target}
		if d := w.check(t, request("x-api-key", "key")); !d.Allowed || (d.CacheTTL > 0) != c.reused {
			t.Errorf("%+v: %v for %v", c.target, d.Reason, d.CacheTTL)
		}
	}
}

// a registered agent calls the tools on its list, whatever the policy says, and so
// does whoever it acts for by it.
func TestToolsOfRegisteredAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Agents = agents{"acme/bot": {"search", "orders.*"}, "acme/all": {"*"}, "acme/none": nil, "other/free": {"search"}}
	for id, actor := range map[string]string{"bot": "", "all": "", "none": "", "unknown": "", "free": "", "ann": "bot"} {
		p := proof(id, "api_key")
		if p.Principal.Kind = policy.KindAgent; actor != "" {
			p.Principal.Kind, p.Principal.Actors = policy.KindUser, []policy.Actor{{ID: "unknown", Kind: policy.KindAgent}, {ID: actor, Kind: policy.KindAgent}}
		}
		w.proofs[id] = p
	}
	for _, c := range []struct {
		who, tool string
		may       bool
	}{
		{"bot", "search", true}, {"bot", "Search", false}, {"bot", "search2", false},
		{"bot", "orders.refund", true}, {"bot", "orders", false}, {"bot", "ordersx", false},
		{"all", "shell", true}, {"none", "search", false}, {"unknown", "shell", true}, {"free", "shell", true},
		{"ann", "search", true}, {"ann", "shell", false},
	} {
		w.cfg.Targets = targets{&policy.Target{Protocol: "mcp", Method: "tools/call", Tools: []policy.ToolCall{{Name: c.tool}}}}
		d := w.check(t, request("x-api-key", c.who))
		if d.Allowed != c.may || !c.may && d.Reason != policy.ReasonTool {
			t.Errorf("%s calls %s: %v", c.who, c.tool, d.Reason)
		}
	}
	w.cfg.Targets = targets{&policy.Target{Protocol: "openai", Tools: []policy.ToolCall{{Name: "shell"}}}}
	want(t, w.check(t, request("x-api-key", "none")), policy.ReasonAllowed, policy.PhaseRecord) // offers it to a model
}

// agents are registered ones by tenant/id, with their tools.
type agents map[string][]string

func (a agents) Agent(tenant, id string) *authn.Agent {
	tools, known := a[tenant+"/"+id]
	if !known {
		return nil
	}
	return &authn.Agent{Principal: &policy.Principal{ID: id, Tenant: tenant}, Tools: tools}
}

func (agents) AgentBySPIFFE(string) *authn.Agent      { return nil }
func (agents) AgentByCertificate(string) *authn.Agent { return nil }

// The policy and the record see what was read.
func TestTargetReachesThePolicy(t *testing.T) {
	t.Parallel()
	w := newTenantWorld(t)
	a := request("x-api-key", "key", "x-tenant", "acme")
	want(t, w.check(t, a), policy.ReasonAllowed, policy.PhaseRecord)
	if in := w.decider.input; in.Target == nil || len(in.Target.Resources) != 1 {
		t.Errorf("%+v", in.Target)
	}
}

// what a caller says about models is taken from nobody but those who are trusted
// to, and does not get on to the upstream either.
func TestModelHeadersOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.ModelHeaders = []string{"x-category"}
	w.cfg.Trust = map[string]check.Trust{"edge": {Models: true}}
	for caller, believed := range map[string]bool{"edge": true, "other": false, "": false} {
		a := request("x-api-key", "key", "x-category", "general")
		a.Caller = caller
		d := w.check(t, a)
		_, n := w.decider.input.Attributes.Headers.Get("x-category")
		if !d.Allowed || (n == 1) != believed || slices.Contains(d.Remove, "x-category") == believed {
			t.Errorf("%q: %d fields, removes %q", caller, n, d.Remove)
		}
		hidden := request("x-api-key", "key")
		hidden.Caller = caller
		if d := w.check(t, hidden); slices.Contains(d.Remove, "x-category") == believed {
			t.Errorf("%q: a field that the gateway hid: removes %q", caller, d.Remove)
		}
	}
}

// tenantNames are those of tenants and attackers: some are alike.
var tenantNames = []string{
	"acme", "Acme", "ACME", "acme2", "acm", "other", "ac-me", "acme.", "a", "ａcme", "acme,other", "tenants", "x",
}

// 100,000 pairs of a principal and a thing of another tenant, named in every place
// and spelling that there is, under a policy that allows everything: no allow. Things of
// the own tenant, named plainly, are all allowed, or the test would say nothing.
func TestCrossTenantPairs(t *testing.T) {
	t.Parallel()
	w := newTenantWorld(t)
	for i, tenant := range tenantNames {
		w.proofs[fmt.Sprint("key", i)] = of("p", tenant, "api_key")
	}
	w.cfg.Recorder = nil
	c := check.New(w.cfg)
	r := rand.New(rand.NewPCG(6, 5))
	denied := map[policy.Reason]int{}
	for n := range 100_000 {
		own, foreign := r.IntN(len(tenantNames)), r.IntN(len(tenantNames)-1)
		if foreign >= own {
			foreign++
		}
		a := request("x-api-key", fmt.Sprint("key", own))
		nameTenant(r, a, tenantNames[foreign], true)
		if r.IntN(3) == 0 {
			a.Headers = append(a.Headers, policy.Header{Name: "x-tenant", Value: tenantNames[own]}) // beside it
		}
		shown := fmt.Sprintf("%s %s %q %+v", a.Path, a.Body, a.Headers[1:], a.Action)
		if d := c.Check(t.Context(), a); d.Allowed {
			t.Fatalf("%d: %q reached %q: %s", n, tenantNames[own], tenantNames[foreign], shown)
		} else {
			denied[d.Reason]++
		}
		if n%20 > 0 {
			continue
		}
		a = request("x-api-key", fmt.Sprint("key", own))
		nameTenant(r, a, tenantNames[own], false)
		if d := c.Check(t.Context(), a); !d.Allowed && d.Reason != policy.ReasonRequestInvalid {
			t.Fatalf("%q did not reach its own: %v %s %s %s", tenantNames[own], d.Reason, d.Detail, a.Path, a.Body)
		}
	}
	if denied[policy.ReasonTenant] < 50_000 {
		t.Errorf("most pairs were refused for something else: %v", denied)
	}
}

// nameTenant names a tenant in some place; odd also in spellings that only some servers
// take for the place.
func nameTenant(r *rand.Rand, a *policy.Attributes, tenant string, odd bool) {
	pick := func(plain string, others ...string) string {
		if i := r.IntN(len(others) + 2); odd && i < len(others) {
			return others[i]
		}
		return plain
	}
	text, _ := json.Marshal(tenant)
	escaped := url.PathEscape(tenant)
	every := &strings.Builder{}
	for i := range len(tenant) {
		fmt.Fprintf(every, "%%%02X", tenant[i])
	}
	segment := pick(escaped, every.String(), escaped+";v=1", escaped+"%3Bv=1")
	value := pick(escaped, every.String())
	switch r.IntN(6) {
	case 0:
		a.Path = "/" + pick("tenants", "TENANTS", "Tenants", "tenants;x=1", "%74enants", "%EF%BD%94enants", "/tenants") + "/" + segment + pick("", "/", "/x", "/x%2Fy", "//x")
	case 1:
		a.Path = "/" + pick("v1", "V1") + "/" + pick("conversations", "Conversations", "%63onversations") + "/" + pick(escaped, every.String()) + pick(":", "%3A") + "7" + pick("", "/messages")
	case 2:
		a.Headers = append(a.Headers, policy.Header{Name: "x-tenant", Value: tenant})
	case 3:
		a.Path += "?" + pick("", "a=1&", "&", "a=1;") + pick("tenant", "Tenant", "TENANT", "%74enant", "tenant[]", "tenant%5B0%5D", "tenant[a]") + "=" + value + pick("", "&b=2", "&")
	case 4:
		a.Method, a.Path = "POST", "/"+pick("llm", "LLM")+"/v1"
		name := pick("tenant", "Tenant", "TENANT", `\u0074enant`)
		a.Body = fmt.Appendf(nil, `{"model":"gpt-4o","%s":%s}`, name, text)
		if r.IntN(2) == 0 {
			model, _ := json.Marshal(tenant + "/ft-1")
			a.Body = fmt.Appendf(nil, `{"model":%s}`, model)
		}
	case 5:
		a.Method, a.Path = "", ""
		a.Action = &policy.Action{Name: "read", ResourceType: "collection", ResourceID: tenant + "/docs"}
	}
}
