package admin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-auth/postern/server/registry"
)

// What an installation says of roles of its own is data, which Rego reads as it is: a
// misspelt field is no field, and a role that nobody has looked at twice. So it is
// checked before, and a table with a mistake in it is not loaded.
//
// The roles are ranked, too. The registry knows by whom those can be granted that
// Postern ships; of the others it learns it here:
//
//	platform-admin   grants all of them
//	the role itself  grants itself, if it may grant at all
//	tenant-admin     grants those that a tenant's principals can have, as long as it is
//	                 what Postern ships: then no role of a tenant is stronger

// The words that a role can hold.
var (
	reaches = []string{"all", "tenant", "below", "own"}
	holders = []string{"installation", "tenants", "users", "everybody", "anybody"}
	shipped = []string{registry.PlatformAdmin, registry.TenantAdmin, registry.Issuer, registry.Auditor, registry.Approver, "self", "bearer", "requester"}
)

// readRoles checks admin.roles and returns which roles may grant each of those that
// Postern does not ship. No table is no mistake.
func readRoles(table any) (map[string][]string, error) {
	if table == nil {
		return nil, nil
	}
	roles, ok := table.(map[string]any)
	if !ok {
		return nil, errors.New("admin.roles is no mapping of names to roles")
	}
	_, replaced := roles[registry.TenantAdmin]
	ranks := map[string][]string{}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		role, ok := roles[name].(map[string]any)
		if !ok {
			faults = append(faults, fmt.Errorf("admin.roles.%s is no mapping: write {} to take a role away", name))
			continue
		}
		checkRole(role, func(field, format string, args ...any) {
			faults = append(faults, fmt.Errorf("admin.roles.%s.%s "+format, append([]any{name, field}, args...)...))
		})
		if slices.Contains(shipped, name) {
			continue
		}
		by := []string{registry.PlatformAdmin, name}
		if !replaced && role["holders"] != "installation" {
			by = append(by, registry.TenantAdmin)
		}
		ranks[name] = by
	}
	return ranks, errors.Join(faults...)
}

// checkRole reports what is wrong with one role.
func checkRole(role map[string]any, report func(field, format string, args ...any)) {
	known := map[string]func(field string, v any){
		"actions":   func(field string, v any) { checkActions(field, v, coversAction, report) },
		"standing":  func(field string, v any) { checkActions(field, v, slices.Contains[[]string], report) },
		"reach":     func(field string, v any) { checkWord(field, v, reaches, report) },
		"holders":   func(field string, v any) { checkWord(field, v, holders, report) },
		"unlimited": func(field string, v any) { checkFlag(field, v, report) },
		"wildcard":  func(field string, v any) { checkFlag(field, v, report) },
	}
	for _, field := range slices.Sorted(maps.Keys(role)) {
		if check := known[field]; check != nil {
			check(field, role[field])
		} else {
			report(field, "is not a field of a role; those are %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	if _, does := role["actions"]; !does {
		return // it is taken away
	}
	for _, field := range []string{"reach", "holders"} {
		if _, there := role[field]; !there {
			report(field, "is missing, so that nobody can do anything with the role")
		}
	}
}

func checkActions(field string, v any, known func(actions []string, pattern string) bool, report func(field, format string, args ...any)) {
	list, ok := v.([]any)
	if !ok {
		report(field, "is no list of actions")
		return
	}
	for i, item := range list {
		if action, ok := item.(string); !ok || !known(allActions, action) {
			report(fmt.Sprintf("%s[%d]", field, i), "is no action; those are %s", strings.Join(allActions, ", "))
		}
	}
}

// allActions are those of the table of methods.
var allActions = func() (all []string) {
	for _, m := range methods {
		all = append(all, m.actions...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}()

// coversAction reports whether a pattern is of at least one action, as admin.rego reads
// it.
func coversAction(actions []string, pattern string) bool {
	prefix, star := strings.CutSuffix(pattern, "*")
	if star && prefix != "" && !strings.HasSuffix(prefix, ".") {
		return false
	}
	return slices.ContainsFunc(actions, func(a string) bool { return a == pattern || star && strings.HasPrefix(a, prefix) })
}

func checkWord(field string, v any, words []string, report func(field, format string, args ...any)) {
	if word, ok := v.(string); !ok || !slices.Contains(words, word) {
		report(field, "is one of %s", strings.Join(words, ", "))
	}
}

func checkFlag(field string, v any, report func(field, format string, args ...any)) {
	if _, ok := v.(bool); !ok {
		report(field, "is true or false")
	}
}
