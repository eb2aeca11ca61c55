package admin_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/store"
)

// accounts are those of acme, other and the installation.
type accounts struct{ err error }

func (a accounts) all() []budget.State {
	state := func(key, tenant string) budget.State {
		return budget.State{
			Key: key, Budget: "llm/day", Unit: budget.UnitTokens, Subject: "tenant=" + tenant, Tenant: tenant,
			Begin: time.Unix(86400, 0), End: time.Unix(172800, 0), Limit: 100, Settled: 10, Reserved: 20, Leased: 5, Overrun: 0, Lost: 1,
		}
	}
	return []budget.State{state("k1", "acme"), state("k2", "acme"), state("k3", "other"), state("k4", "")}
}

func (a accounts) List(_ context.Context, q budget.Query) (list []budget.State, err error) {
	for _, s := range a.all() {
		if s.Key > q.After && (q.Tenant == "" || q.Tenant == s.Tenant) && (q.Budget == "" || q.Budget == s.Budget) && len(list) < q.Limit {
			list = append(list, s)
		}
	}
	return list, a.err
}

func (a accounts) State(_ context.Context, key string) (budget.State, error) {
	all := a.all()
	i := slices.IndexFunc(all, func(s budget.State) bool { return s.Key == key })
	switch {
	case a.err != nil:
		return budget.State{}, a.err
	case i < 0:
		return budget.State{}, store.ErrNotFound
	}
	return all[i], nil
}

// desk's callers: who sees which accounts.
func TestBudgets(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.mu.Lock()
	d.callers["acme-auditor"] = &policy.Principal{ID: "aud", Kind: policy.KindService, Tenant: "acme", Roles: []string{"auditor"}, Issuer: "postern"}
	d.callers["acme-boss"] = &policy.Principal{ID: "boss", Kind: policy.KindService, Tenant: "acme", Roles: []string{"tenant-admin"}, Issuer: "postern"}
	d.callers["acme-nobody"] = &policy.Principal{ID: "nob", Kind: policy.KindService, Tenant: "acme", Issuer: "postern"}
	d.mu.Unlock()
	as := func(caller string) adminv1.BudgetServiceClient { return adminv1.NewBudgetServiceClient(d.as(caller)) }

	for caller, want := range map[string]string{"root": "k1 k2 k3 k4", "acme-auditor": "k1 k2"} {
		var ids []string
		token := ""
		for {
			res := must[*adminv1.ListBudgetsResponse](t)(as(caller).ListBudgets(t.Context(), &adminv1.ListBudgetsRequest{PageSize: 2, PageToken: token}))
			for _, b := range res.GetBudgets() {
				ids = append(ids, b.GetId())
			}
			if token = res.GetNextPageToken(); token == "" {
				break
			}
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s sees %s, want %s", caller, got, want)
		}
	}
	got := must[*adminv1.GetBudgetResponse](t)(as("acme-auditor").GetBudget(t.Context(), &adminv1.GetBudgetRequest{Id: "k2"})).GetBudget()
	if got.GetRemaining() != 65 || got.GetSubject() != "tenant=acme" || got.GetEndTime().GetSeconds() != 172800 || got.GetUnit() != "tokens" {
		t.Errorf("%v", got)
	}
	for name, c := range map[string]struct {
		caller, id string
		code       codes.Code
	}{
		"another tenant's":     {"acme-auditor", "k3", codes.NotFound},
		"the installation's":   {"acme-auditor", "k4", codes.NotFound},
		"none":                 {"root", "k9", codes.NotFound},
		"empty":                {"root", "", codes.InvalidArgument},
		"long":                 {"root", strings.Repeat("k", 1000), codes.NotFound},
		"somebody without any": {"acme-nobody", "k1", codes.NotFound},
	} {
		if _, err := as(c.caller).GetBudget(t.Context(), &adminv1.GetBudgetRequest{Id: c.id}); status.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := as("acme-auditor").ListBudgets(t.Context(), &adminv1.ListBudgetsRequest{Tenant: "other"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another tenant's: %v", err)
	}
	if _, err := as("acme-nobody").ListBudgets(t.Context(), &adminv1.ListBudgetsRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("somebody without any role: %v", err)
	}
	set := &adminv1.SetLimitRequest{Id: "k1", Limit: 500, RequestId: "once"}
	for range 2 { // the same call again changes nothing
		res := must[*adminv1.SetLimitResponse](t)(as("root").SetLimit(t.Context(), set))
		if res.GetChange().GetNumber() == 0 || res.GetBudget().GetId() != "k1" {
			t.Errorf("%v", res)
		}
	}
	for name, c := range map[string]struct {
		caller, id string
		limit      int64
		code       codes.Code
	}{
		"its auditor":            {"acme-auditor", "k1", 500, codes.PermissionDenied},
		"its administrator":      {"acme-boss", "k1", 500, codes.PermissionDenied},
		"another administrator":  {"acme-boss", "k3", 500, codes.NotFound},
		"less than nothing":      {"root", "k1", -1, codes.InvalidArgument},
		"more than can be said":  {"root", "k1", math.MaxInt64, codes.InvalidArgument},
		"of an account not here": {"root", "k9", 500, codes.NotFound},
	} {
		if _, err := as(c.caller).SetLimit(t.Context(), &adminv1.SetLimitRequest{Id: c.id, Limit: c.limit}); status.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := as("root").ListBudgets(t.Context(), &adminv1.ListBudgetsRequest{PageToken: strings.Repeat("k", 1000)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a page token that is none: %v", err)
	}
}

// A store that does not answer is a fault, and its text stays in the log.
func TestBudgetsFault(t *testing.T) {
	t.Parallel()
	d := open(t, func(c *admin.Config) { c.Budgets = accounts{errors.New("the password of the database")} })
	c := adminv1.NewBudgetServiceClient(d.as("root"))
	_, list := c.ListBudgets(t.Context(), &adminv1.ListBudgetsRequest{})
	_, get := c.GetBudget(t.Context(), &adminv1.GetBudgetRequest{Id: "k1"})
	for _, err := range []error{list, get} {
		if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "password") {
			t.Error(err)
		}
	}
	if !strings.Contains(d.log.String(), "the password of the database") {
		t.Error("the log does not say why")
	}
}
