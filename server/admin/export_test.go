package admin

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
)

// Actions are all actions of the table of methods.
func Actions() []string { return slices.Clone(allActions) }

// Methods are the full names of the methods in the table.
func Methods() []string {
	var all []string
	for name := range methods {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// May asks the policy about a credential, and says what it answered in a word.
func (a *Authorizer) May(ctx context.Context, p *policy.Principal, action, tenant, principal, sort string) string {
	g, err := a.authorize(ctx, p, action, target{kind: "credential", id: "k2", tenant: tenant, principal: principal, sort: sort})
	switch {
	case err != nil:
		return "-"
	case g.unlimited && g.wildcard:
		return "all"
	case g.unlimited:
		return "unlimited"
	case g.wildcard:
		return "wildcard"
	}
	return "yes"
}

// CodedReasons are the reasons that come with a status of their own.
func CodedReasons() (names []string) {
	for r := range statusCodes {
		names = append(names, reasonName(r))
	}
	slices.Sort(names)
	return names
}

// RegisterDecisions registers the one service that needs nothing else.
func (cfg *Config) RegisterDecisions(r grpc.ServiceRegistrar) {
	adminv1.RegisterDecisionServiceServer(r, &Decisions{})
}
