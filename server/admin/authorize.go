package admin

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// Decider asks a policy (policy/rego.Engine and Snapshot). An error means that
// there is no answer; a nil verdict without an error is a deny as well.
type Decider interface {
	Decide(ctx context.Context, in *policy.Input) (v *policy.Verdict, cached bool, err error)
}

// PolicyEntrypoint is the rule that decides who may do what, in policy/lib/admin.rego.
const PolicyEntrypoint = "data.postern.admin.decision"

// policyTimeout bounds one question. Administrators can wait longer than requests.
const policyTimeout = time.Second

// Policy is the policy of the admin API, ready to be asked.
type Policy struct {
	*rego.Snapshot
	// ranks says which roles may grant each of those that the tables add.
	ranks map[string][]string
}

// LoadPolicy compiles the policy of the admin API. Tables is a directory whose data
// may define admin.roles, which admin.rego explains; nil for the roles as they are
// shipped. The error lists all that is wrong with them.
func LoadPolicy(ctx context.Context, tables fs.FS, options ...rego.Option) (*Policy, error) {
	if tables == nil {
		tables, _ = fs.Sub(noTables, "tables") // the name is a constant
	}
	config := rego.Config{Entrypoint: PolicyEntrypoint, Strict: true, Timeout: policyTimeout}
	bundle, err := rego.LoadFS(tables, config)
	if err != nil {
		return nil, fmt.Errorf("the policy of the admin API: %w", err)
	}
	ranks, err := readRoles(bundle.Data("admin", "roles"))
	if err != nil {
		return nil, fmt.Errorf("the policy of the admin API: %w", err)
	}
	snapshot, err := rego.Compile(ctx, bundle, config, options...)
	if err != nil {
		return nil, fmt.Errorf("the policy of the admin API: %w", err)
	}
	return &Policy{snapshot, ranks}, nil
}

// noTables leaves the roles as they are shipped.
//
//go:embed tables
var noTables embed.FS

// target is a record, or all of a kind, that a call is about.
type target struct {
	// kind and id name it; id is empty for all of the kind.
	kind, id string
	// tenant is whose it is: empty for the installation's own, everyTenant for those
	// of all.
	tenant string
	// principal is to whom it belongs, if to anybody.
	principal string
	// sort is the type of a credential: "api_key", "pat" or "token".
	sort string
}

// everyTenant is no tenant's name.
const everyTenant = "*"

// grants says what the caller may give away in a call beyond what it has, and that it
// may rotate its own credential for no other reason than that it is.
type grants struct{ unlimited, wildcard, itself bool }

// errDenied says that the caller may not do it.
var errDenied = errors.New("denied")

// Authorizer decides by a policy who may do what.
type Authorizer struct {
	decider Decider
	ranks   map[string][]string
}

// NewAuthorizer returns an Authorizer that asks the decider. Of a Policy it knows by
// whom the roles can be granted that its tables add.
func NewAuthorizer(d Decider) *Authorizer {
	a := &Authorizer{decider: d}
	if p, ok := d.(*Policy); ok {
		a.ranks = p.ranks
	}
	return a
}

// authorize asks whether the principal may do the action. It returns errDenied, or
// another error if that could not be found out.
//
// No policy can let anybody but the installation's own principals out of their
// tenant.
func (a *Authorizer) authorize(ctx context.Context, p *policy.Principal, action string, t target) (grants, error) {
	if p.Tenant != "" && p.Tenant != t.tenant {
		return grants{}, errDenied
	}
	verdict, _, err := a.decider.Decide(ctx, question(p, action, t))
	switch {
	case err != nil:
		return grants{}, fmt.Errorf("the policy of the admin API: %w", err)
	case verdict == nil || !verdict.Allow:
		return grants{}, errDenied
	}
	given, _ := verdict.Metadata["grants"].(map[string]any)
	return grants{unlimited: given["unlimited"] == true, wildcard: given["wildcard"] == true, itself: verdict.Metadata["itself"] == true}, nil
}

// question is the input of the decision, as admin.rego explains it.
func question(p *policy.Principal, action string, t target) *policy.Input {
	return &policy.Input{
		Attributes: &policy.Attributes{
			Door: Name, Size: -1,
			Action: &policy.Action{
				Name: action, ResourceType: t.kind, ResourceID: t.id,
				Properties: map[string]any{"tenant": t.tenant, "principal": t.principal, "type": t.sort},
			},
		},
		Request: &policy.Request{}, Principal: p, Route: &policy.Route{},
	}
}
