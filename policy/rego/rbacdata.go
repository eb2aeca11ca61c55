package rego

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// maxInherited bounds the roles that all roles together inherit from, so that a
// table cannot take up more memory than its size suggests.
const maxInherited = 1 << 20

// compileRBAC reads the tables, given as JSON values. The error names every
// mistake by its place in the data.
func compileRBAC(tables map[string]any) (*rbac, error) {
	r := tableReader{
		known: map[string]bool{},
		out: &rbac{
			roles: map[string]int{}, implied: map[string]map[string]bool{},
			byPath: &pathIndex{}, byFold: &pathIndex{}, denyAt: &pathIndex{},
		},
	}
	r.permissions(tables["permissions"])
	r.roles(tables["roles"])
	r.routes(tables["routes"])
	r.deny(tables["deny"])
	r.scopes(tables["scopes"])
	if err := r.problems.orNil(); err != nil {
		return nil, err
	}
	return r.out, nil
}

type tableReader struct {
	out *rbac
	// known are the permissions that there are; empty if any name will do.
	known    map[string]bool
	problems Problems
}

func (r *tableReader) problem(at, format string, args ...any) {
	r.problems = append(r.problems, Problem{Text: "data." + at + ": " + fmt.Sprintf(format, args...)})
}

// permissions reads the names that there are: a list, or an object by name.
func (r *tableReader) permissions(v any) {
	if object, ok := v.(map[string]any); ok {
		for name := range object {
			r.known[name] = true
		}
		return
	}
	for _, name := range r.strings("permissions", v) {
		r.known[name] = true
	}
}

func (r *tableReader) permission(at, pattern string) {
	if err := checkPermission(pattern); err != nil {
		r.problem(at, "%v", err)
	} else if len(r.known) > 0 && !strings.HasSuffix(pattern, "*") && !r.known[pattern] {
		r.problem(at, "%q is not listed in data.permissions", pattern)
	}
}

func (r *tableReader) roles(v any) {
	roles := r.object("roles", v)
	names := sortedKeys(roles)
	r.out.grants = make([]grants, 0, len(names))
	for i, name := range names {
		r.out.roles[name] = i
		r.out.grants = append(r.out.grants, r.role("roles."+name, roles[name]))
	}
	total := 0
	for i, name := range names {
		r.out.grants[i].all = r.inherited(int32(i))
		if total += len(r.out.grants[i].all); total > maxInherited {
			r.problem("roles."+name, "roles inherit from more than %d roles in all", maxInherited)
			return
		}
	}
}

// role reads a list of what the role grants, or an object with that list.
func (r *tableReader) role(at string, v any) (g grants) {
	if list, ok := v.([]any); ok {
		r.grant(at, list, &g)
		return g
	}
	object := r.record(at, v, "permissions", "inherits", "deny", "description")
	list, ok := object["permissions"].([]any)
	if !ok && object["permissions"] != nil {
		r.problem(at+".permissions", "is a list of permissions")
	}
	r.grant(at+".permissions", list, &g)
	g.inherits = r.strings(at+".inherits", object["inherits"])
	for _, name := range r.strings(at+".deny", object["deny"]) {
		r.permission(at+".deny", name)
		g.denied.add(strings.ToLower(name))
	}
	return g
}

// grant reads permissions, and objects of methods and a path.
func (r *tableReader) grant(at string, list []any, g *grants) {
	for i, e := range list {
		at := fmt.Sprintf("%s[%d]", at, i)
		if name, ok := e.(string); ok {
			r.permission(at, name)
			g.permissions.add(name)
			continue
		}
		object := r.record(at, e, "methods", "path", "paths")
		methods := r.strings(at+".methods", object["methods"])
		for _, p := range r.paths(at, object) {
			g.paths = append(g.paths, grantPath{methods, p})
		}
	}
}

// inherited lists a role and all that it inherits from, each once: a cycle adds
// nothing.
func (r *tableReader) inherited(role int32) []int32 {
	all := []int32{role}
	if len(r.out.grants[role].inherits) == 0 {
		return all
	}
	seen := map[int32]bool{role: true}
	for i := 0; i < len(all) && len(all) <= maxInherited; i++ {
		for _, name := range r.out.grants[all[i]].inherits {
			parent, ok := r.out.roles[name]
			if !ok {
				if int32(i) == 0 {
					r.problem("roles", "a role inherits from %q, which is no role", name)
				}
				continue
			}
			if !seen[int32(parent)] {
				seen[int32(parent)] = true
				all = append(all, int32(parent))
			}
		}
	}
	return all
}

func (r *tableReader) routes(v any) {
	ownHead := map[string]bool{}
	list := r.list("routes", v)
	r.out.routes = make([]rbacRoute, 0, len(list))
	for i, e := range list {
		at := fmt.Sprintf("routes[%d]", i)
		object := r.record(at, e, "name", "methods", "path", "paths", "permission", "permissions", "scopes", "public")
		methods := newMethods(r.strings(at+".methods", object["methods"]))
		route := rbacRoute{
			methods:     methods,
			permissions: r.strings(at+".permissions", object["permissions"]),
			scopes:      r.strings(at+".scopes", object["scopes"]),
		}
		if p := object["permission"]; p != nil {
			route.permissions = append(route.permissions, r.strings(at+".permission", []any{p})...)
		}
		for _, p := range route.permissions {
			r.permission(at, p)
		}
		public, ok := object["public"].(bool)
		if !ok && object["public"] != nil {
			r.problem(at+".public", "is true or false")
		}
		if required := len(route.permissions) + len(route.scopes); public == (required > 0) {
			r.problem(at, "needs a permission or scopes, or public: true, and not both")
		}
		for _, p := range r.paths(at, object) {
			folded := r.folded(at, p)
			route.path = folded.String()
			ownHead[route.path] = ownHead[route.path] || slices.Contains(methods.upper, http.MethodHead)
			r.out.byPath.add(p, len(r.out.routes))
			r.out.byFold.add(folded, len(r.out.routes))
			r.out.routes = append(r.out.routes, route)
		}
	}
	for i := range r.out.routes {
		route := &r.out.routes[i]
		route.methods.head = route.methods.head && !ownHead[route.path]
	}
}

// deny reads permissions that nobody has, and paths that nobody may reach.
func (r *tableReader) deny(v any) {
	for i, e := range r.list("deny", v) {
		at := fmt.Sprintf("deny[%d]", i)
		if name, ok := e.(string); ok {
			r.permission(at, name)
			r.out.never.add(strings.ToLower(name))
			continue
		}
		object := r.record(at, e, "methods", "path", "paths", "description")
		methods := newMethods(r.strings(at+".methods", object["methods"]))
		for _, p := range r.paths(at, object) {
			r.out.denyAt.add(r.folded(at, p), len(r.out.denied))
			r.out.denied = append(r.out.denied, rbacDeny{methods, p.String()})
		}
	}
}

// folded returns the pattern in lower case.
func (r *tableReader) folded(at string, p policy.PathPattern) policy.PathPattern {
	lower := strings.ToLower(p.String())
	if lower == p.String() {
		return p
	}
	folded, err := policy.ParsePathPattern(lower)
	if err != nil {
		r.problem(at, "%v", err)
		return p
	}
	return folded
}

// scopes reads which scopes each scope implies, and what these imply in turn.
func (r *tableReader) scopes(v any) {
	direct := map[string][]string{}
	object := r.object("scopes", v)
	for _, name := range sortedKeys(object) {
		direct[name] = r.strings("scopes."+name, object[name])
	}
	for name := range direct {
		implied := map[string]bool{}
		for todo := slices.Clone(direct[name]); len(todo) > 0; todo = todo[1:] {
			if s := todo[0]; !implied[s] {
				implied[s] = true
				todo = append(todo, direct[s]...)
			}
		}
		r.out.implied[name] = implied
	}
}

// paths reads `path` and `paths`; at least one is needed.
func (r *tableReader) paths(at string, object map[string]any) (all []policy.PathPattern) {
	texts := r.strings(at+".paths", object["paths"])
	if p := object["path"]; p != nil {
		texts = append(texts, r.strings(at+".path", []any{p})...)
	}
	if len(texts) == 0 {
		r.problem(at, "needs a path")
	}
	for _, text := range texts {
		p, err := policy.ParsePathPattern(text)
		if err != nil {
			r.problem(at, "%q: %v", text, err)
			continue
		}
		all = append(all, p)
	}
	return all
}

func (r *tableReader) object(at string, v any) map[string]any {
	object, ok := v.(map[string]any)
	if !ok && v != nil {
		r.problem(at, "is an object")
	}
	return object
}

// record reads an object whose names are all known.
func (r *tableReader) record(at string, v any, names ...string) map[string]any {
	object, ok := v.(map[string]any)
	if !ok {
		r.problem(at, "is an object of %s", strings.Join(names, ", "))
		return nil
	}
	for _, name := range sortedKeys(object) {
		if !slices.Contains(names, name) {
			r.problem(at, "has no %q; it may have %s", name, strings.Join(names, ", "))
		}
	}
	return object
}

func (r *tableReader) list(at string, v any) []any {
	if empty, ok := v.(map[string]any); ok && len(empty) == 0 {
		return nil // a table that the policy directory leaves out
	}
	list, ok := v.([]any)
	if !ok && v != nil {
		r.problem(at, "is a list")
	}
	return list
}

func (r *tableReader) strings(at string, v any) (all []string) {
	for i, e := range r.list(at, v) {
		s, ok := e.(string)
		if !ok || s == "" {
			r.problem(fmt.Sprintf("%s[%d]", at, i), "is a string")
			continue
		}
		all = append(all, s)
	}
	return all
}
