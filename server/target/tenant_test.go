package target_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/target"
)

// tenancy names tenants in every place there is; bodies on the route "body" only.
func tenancy() target.Config {
	return target.Config{Tenancy: []target.Rule{
		{Path: template("/tenants/{tenant}/**")},
		{Path: template("/v1/Orgs/{tenant}/conversations/{conversation}")},
		{Path: template("/v1/conversations/{conversation}"), Separator: ":"},
		{Header: "x-tenant"},
		{Query: "tenant_id"},
		{Body: "/metadata/tenant", Routes: []string{"body"}},
		{Body: "/items/*/owner", Type: "item", Routes: []string{"body"}},
		{Body: "/model", Type: "model", Separator: "/", Shared: []string{"gpt-4o", "text-embedding-*"}, Routes: []string{"body"}},
		{Header: "x-org", Required: true, Routes: []string{"strict"}},
		{Query: "org", Required: true, Routes: []string{"strict-query"}},
		{Body: "/org", Required: true, Routes: []string{"strict-body"}},
		{Path: template("/o/{tenant}"), Required: true, Routes: []string{"strict-path"}},
		{Resource: "collection", Separator: "/"},
	}}
}

// names are "type:tenant:id" of all that is named.
func names(t *policy.Target) (all []string) {
	if t != nil {
		for _, r := range t.Resources {
			all = append(all, r.Type+" "+r.Tenant+" "+r.ID)
		}
	}
	return all
}

// whose things a request names.
func TestTenants(t *testing.T) {
	t.Parallel()
	r := newReader(t, tenancy())
	refused := []string{"refused"}
	unreadable := []string{"invalid"}
	for _, c := range []struct {
		name, route, path, body string
		want                    []string
	}{
		{"nobody's", "", "/orders/7", "", nil},
		{"in the path", "", "/tenants/acme", "", []string{"tenant acme "}},
		{"below", "", "/tenants/acme/files/7", "", []string{"tenant acme "}},
		{"with a slash", "", "/tenants/acme/", "", []string{"tenant acme "}},
		{"the list of tenants", "", "/tenants/", "", nil},
		{"in capitals, tenant kept", "", "/TENANTS/Acme", "", []string{"tenant Acme "}},
		{"fullwidth", "", "/%EF%BC%B4enants/acme", "", []string{"tenant acme "}},
		{"slashes", "", "/tenants//acme", "", []string{"tenant acme "}},
		{"escaped", "", "/tenants/%61cme", "", []string{"tenant acme "}},
		{"parameters", "", "/tenants;v=1/acme;x=2", "", []string{"tenant acme "}},
		{"a kept slash", "", "/tenants/acme%2Fother", "", unreadable},
		{"a kept slash before", "", "/x%2Ftenants/acme", "", nil},
		{"a kept slash inside", "", "/tenants%2Facme/other", "", unreadable},
		{"a thing", "", "/v1/orgs/acme/conversations/7", "", []string{"conversation acme 7"}},
		{"a thing in capitals", "", "/V1/ORGS/acme/Conversations/7", "", []string{"conversation acme 7"}},
		{"something else of a tenant", "", "/v1/orgs/acme/members/7", "", []string{"conversation acme "}},
		{"all of them", "", "/v1/orgs/acme", "", []string{"conversation acme "}},
		{"in front", "", "/v1/conversations/acme:conv-1", "", []string{"conversation acme conv-1"}},
		{"in front, below", "", "/v1/conversations/acme:conv-1/messages", "", []string{"conversation acme conv-1"}},
		{"in front, escaped", "", "/v1/conversations/acme%3Aconv-1", "", []string{"conversation acme conv-1"}},
		{"nothing in front", "", "/v1/conversations/conv-1", "", refused},
		{"only in front", "", "/v1/conversations/acme:", "", refused},
		{"no tenant in front", "", "/v1/conversations/:conv-1", "", refused},
		{"query", "", "/orders?tenant_id=acme", "", []string{"tenant acme "}},
		{"query, escaped", "", "/orders?%74enant_id=%61cme", "", []string{"tenant acme "}},
		{"query, twice", "", "/orders?tenant_id=acme&tenant_id=other", "", []string{"tenant acme ", "tenant other "}},
		{"query, in capitals", "", "/orders?Tenant_ID=other", "", []string{"tenant other "}},
		{"query, other spelling", "", "/orders?tenantId=other&tenant.id=third", "", []string{"tenant other ", "tenant third "}},
		{"query, array", "", "/orders?tenant_id[]=acme&tenant_id%5B1%5D=other", "", []string{"tenant acme ", "tenant other "}},
		{"query, semicolon", "", "/orders?a=1;tenant_id=other", "", []string{"tenant other "}},
		{"query, semicolon in the value", "", "/orders?tenant_id=acme;x=1", "", unreadable},
		{"query, empty", "", "/orders?tenant_id=", "", refused},
		{"query, bare", "", "/orders?tenant_id", "", refused},
		{"query, plus", "", "/orders?tenant_id=a+b", "", unreadable},
		{"query, broken", "", "/orders?tenant_id=%zz", "", unreadable},
		{"query, not UTF-8", "", "/orders?tenant_id=%ff", "", refused},
		{"query, something else", "", "/orders?tenant_identity=x&id=7", "", nil},
		{"body", "body", "/x", `{"metadata":{"tenant":"acme"}}`, []string{"tenant acme "}},
		{"body elsewhere", "other", "/x", `{"metadata":{"tenant":"acme"}}`, nil},
		{"body, several", "body", "/x", `{"items":[{"owner":"acme"},{},{"owner":"other"}]}`, []string{"item acme ", "item other "}},
		{"body, nothing", "body", "/x", `{"metadata":{},"items":null}`, nil},
		{"body, null", "body", "/x", `{"metadata":{"tenant":null}}`, nil},
		{"body, number", "body", "/x", `{"metadata":{"tenant":7}}`, refused},
		{"body, list", "body", "/x", `{"metadata":{"tenant":["acme"]}}`, refused},
		{"body, list around", "body", "/x", `{"metadata":[{"tenant":"other"}]}`, unreadable},
		{"body, a list itself", "body", "/x", `[{"metadata":{"tenant":"other"}}]`, unreadable},
		{"body, an object for a list", "body", "/x", `{"items":{"a":{"owner":"other"}}}`, unreadable},
		{"body, a member named as all", "body", "/x", `{"items":{"*":{"owner":"acme"}}}`, unreadable},
		{"body, text around", "body", "/x", `{"metadata":"other"}`, refused},
		{"body, empty text", "body", "/x", `{"metadata":{"tenant":""}}`, refused},
		{"body, twice", "body", "/x", `{"metadata":{"tenant":"acme","tenant":"other"}}`, unreadable},
		{"body, in capitals", "body", "/x", `{"metadata":{"tenant":"acme","Tenant":"other"}}`, unreadable},
		{"body, in capitals around", "body", "/x", `{"metadata":{"tenant":"acme"},"METADATA":{"tenant":"other"}}`, unreadable},
		{"body, broken", "body", "/x", `{"metadata":{"tenant":"acme"}`, unreadable},
		{"body, missing", "body", "/x", ``, unreadable},
		{"model of a tenant", "body", "/x", `{"model":"acme/ft-1"}`, []string{"model acme ft-1"}},
		{"model of nobody", "body", "/x", `{"model":"gpt-4o"}`, nil},
		{"models of nobody", "body", "/x", `{"model":"text-embedding-3"}`, nil},
		{"another model", "body", "/x", `{"model":"gpt-4o-mini"}`, refused},
		{"nearly of nobody", "body", "/x", `{"model":"GPT-4o"}`, refused},
		{"required header", "strict", "/x", ``, refused},
		{"required query", "strict-query", "/x?a=1", ``, refused},
		{"required query, there", "strict-query", "/x?org=acme", ``, []string{"tenant acme "}},
		{"required body", "strict-body", "/x", `{}`, refused},
		{"required path", "strict-path", "/x", ``, refused},
		{"required path, there", "strict-path", "/o/acme", ``, []string{"tenant acme "}},
	} {
		got, err := read(r, c.route, post(c.path, c.body))
		all := names(got)
		switch refusal := (*policy.Refusal)(nil); {
		case errors.Is(err, errUnserved):
			t.Errorf("%s: %v", c.name, err)
		case errors.As(err, &refusal) && refusal.Reason == policy.ReasonTenant:
			all = refused
		case err != nil:
			all = unreadable
		}
		if !slices.Equal(all, c.want) {
			t.Errorf("%s: %q (%v), want %q", c.name, all, err, c.want)
		}
	}
	for _, c := range []struct {
		values []string
		want   []string
	}{
		{[]string{"acme"}, []string{"tenant acme "}},
		{[]string{"acme", "other"}, []string{"tenant acme ", "tenant other "}},
		{[]string{"acme,other"}, []string{"tenant acme,other "}},
		{[]string{" acme"}, []string{"tenant  acme "}},
	} {
		a := post("/x", "")
		for _, v := range c.values {
			header("x-tenant", v)(a)
		}
		if got, err := read(r, "", a); err != nil || !slices.Equal(names(got), c.want) {
			t.Errorf("%q: %q, %v", c.values, names(got), err)
		}
	}
	if _, err := read(r, "", post("/x", "", header("x-tenant", ""))); err == nil {
		t.Error("an empty field names nobody")
	}
}

// resources of actions.
func TestActionTenants(t *testing.T) {
	t.Parallel()
	r := newReader(t, tenancy())
	for id, want := range map[string]string{"acme/docs": "collection acme docs", "acme/a/b": "collection acme a/b", "docs": "", "": "nothing", "/docs": ""} {
		a := &policy.Attributes{Action: &policy.Action{Name: "read", ResourceType: "collection", ResourceID: id}}
		got, err := read(r, "", a)
		switch {
		case want == "nothing" && (err != nil || got != nil):
			t.Errorf("%q: %v", id, err)
		case want == "" && err == nil:
			t.Errorf("%q: accepted: %q", id, names(got))
		case strings.HasPrefix(want, "collection") && (err != nil || names(got)[0] != want):
			t.Errorf("%q: %q, %v", id, names(got), err)
		}
	}
	other := &policy.Attributes{Action: &policy.Action{Name: "read", ResourceType: "order", ResourceID: "7"}}
	if got, err := read(r, "", other); got != nil || err != nil {
		t.Errorf("another type: %+v, %v", got, err)
	}
}

// One request cannot name things without end.
func TestManyResources(t *testing.T) {
	t.Parallel()
	r := newReader(t, tenancy())
	_, err := read(r, "body", post("/x", `{"items":[`+strings.Repeat(`{"owner":"acme"},`, 1024)+`{"owner":"acme"}]}`))
	wantReason(t, "too many", err, policy.ReasonRequestTooLarge)
}
