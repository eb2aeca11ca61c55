package rego

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// rbac is role-based access control from plain data, compiled so that a decision
// costs what the caller has, not what the tables hold. docs: policy/lib/rbac.rego
// says what the tables mean.
type rbac struct {
	roles   map[string]int
	grants  []grants // by role
	implied map[string]map[string]bool
	routes  []rbacRoute
	byPath  *pathIndex
	byFold  *pathIndex // the same routes, as a forgiving server reads their paths
	denied  []rbacDeny
	denyAt  *pathIndex
	never   permissionSet
}

// grants are what one role gives by itself, and the roles that it stands for:
// itself and all that it inherits from, each once.
type grants struct {
	permissions, denied permissionSet
	paths               []grantPath
	inherits            []string
	all                 []int32
}

type grantPath struct {
	methods []string
	path    policy.PathPattern
}

type rbacRoute struct {
	methods     []string
	permissions []string
	scopes      []string
	public      bool
}

type rbacDeny struct {
	methods []string // upper case
	text    string
}

// permissionSet holds permissions by name, and prefixes of those written with a
// "*" at the end.
type permissionSet struct {
	names    map[string]bool
	prefixes []string
}

func (s *permissionSet) has(name string) bool {
	return s.names[name] || slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (s *permissionSet) add(pattern string) {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		s.prefixes = append(s.prefixes, prefix)
		return
	}
	if s.names == nil {
		s.names = map[string]bool{}
	}
	s.names[pattern] = true
}

// checkPermission accepts a name, "*", and a name whose last part is "*".
func checkPermission(pattern string) error {
	prefix, star := strings.CutSuffix(pattern, "*")
	switch {
	case pattern == "":
		return fmt.Errorf("a permission is not empty")
	case strings.Contains(prefix, "*"), star && prefix != "" && !strings.ContainsAny(prefix[len(prefix)-1:], ".:/"):
		return fmt.Errorf(`"*" in a permission stands for its whole last part, as in "orders.*", not as in %q`, pattern)
	}
	return nil
}

// question is one question to rbac.
type question struct {
	roles, permissions, scopes []string
	// method and the paths are empty for an action. folded is the path for denies
	// (policy.Request.Folded).
	method, path, folded string
	action               string
	// required by whoever configured the route, besides the tables.
	permission     string
	requiredScopes []string
}

// answer is what rbac says to it.
type answer struct {
	allow bool
	// denied is the entry of the tables that denies explicitly.
	denied                            string
	missingPermissions, missingScopes []string
}

// ask answers a question. Explicit denies come first. Then whatever the route
// requires must be there, all of it; if nothing says what is required, only a
// role's grant of the path itself allows. No table means no.
func (t *rbac) ask(q *question) (a answer) {
	if a.denied = t.deniedPath(q); a.denied != "" {
		return a
	}
	held := t.rolesOf(q.roles)
	permissions, scopes, public := t.required(q)
	for _, p := range permissions {
		if !t.permits(q, held, p) {
			a.missingPermissions = append(a.missingPermissions, p)
		}
	}
	for _, s := range scopes {
		if !t.inScope(q.scopes, s) {
			a.missingScopes = append(a.missingScopes, s)
		}
	}
	switch {
	case len(a.missingPermissions)+len(a.missingScopes) > 0:
	case len(permissions)+len(scopes) > 0 || public:
		a.allow = true
	default:
		a.allow = t.grantsPath(q, held)
	}
	return a
}

// required is what the tables and the route together demand.
func (t *rbac) required(q *question) (permissions, scopes []string, public bool) {
	permissions, scopes = oneOrNone(q.permission), q.requiredScopes
	if q.action != "" {
		return addMissing(permissions, oneOrNone(q.action)), scopes, false
	}
	applies := func(i int) bool { return hasMethod(t.routes[i].methods, q.method) }
	i := t.byPath.first(q.path, applies)
	if i < 0 {
		return permissions, scopes, false
	}
	r := &t.routes[i]
	permissions, scopes, public = addMissing(permissions, r.permissions), addMissing(scopes, r.scopes), r.public
	// A forgiving server may take /ADMIN for /admin: what the route of that reading
	// demands is demanded as well. A fold adds demands and never takes one away.
	if j := t.byFold.first(cmp.Or(q.folded, strings.ToLower(q.path)), applies); j >= 0 && j != i {
		f := &t.routes[j]
		permissions, scopes, public = addMissing(permissions, f.permissions), addMissing(scopes, f.scopes), public && f.public
	}
	return permissions, scopes, public
}

func oneOrNone(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func addMissing(list, more []string) []string {
	if len(list) == 0 {
		return more
	}
	list = slices.Clip(list)
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func hasMethod(methods []string, method string) bool {
	return len(methods) == 0 || slices.Contains(methods, method)
}

// rolesOf resolves role names; names that the tables do not know give nothing.
func (t *rbac) rolesOf(names []string) []int {
	held := make([]int, 0, len(names))
	for _, name := range names {
		if i, ok := t.roles[name]; ok {
			held = append(held, i)
		}
	}
	return held
}

// permits reports whether the caller holds the permission, directly or through a
// role, and nothing denies it. A deny of any role wins over a grant of any other.
func (t *rbac) permits(q *question, held []int, permission string) bool {
	folded := strings.ToLower(permission)
	if t.never.has(folded) {
		return false
	}
	granted := slices.ContainsFunc(q.permissions, func(pattern string) bool {
		prefix, star := strings.CutSuffix(pattern, "*")
		return pattern == permission || star && checkPermission(pattern) == nil && strings.HasPrefix(permission, prefix)
	})
	for _, role := range held {
		for _, i := range t.grants[role].all {
			g := &t.grants[i]
			if g.denied.has(folded) {
				return false
			}
			granted = granted || g.permissions.has(permission)
		}
	}
	return granted
}

// inScope reports whether a scope is granted or implied by one that is.
func (t *rbac) inScope(granted []string, scope string) bool {
	return slices.ContainsFunc(granted, func(g string) bool { return g == scope || t.implied[g][scope] })
}

func (t *rbac) grantsPath(q *question, held []int) bool {
	for _, role := range held {
		for _, i := range t.grants[role].all {
			for _, g := range t.grants[i].paths {
				if hasMethod(g.methods, q.method) && g.path.Match(q.path) {
					return true
				}
			}
		}
	}
	return false
}

// deniedPath looks for a deny of the path, in any letter case and with or without
// a slash at the end: reading too much costs a deny nothing.
func (t *rbac) deniedPath(q *question) string {
	if len(t.denied) == 0 || q.path == "" {
		return ""
	}
	method := strings.ToUpper(q.method)
	applies := func(i int) bool { return hasMethod(t.denied[i].methods, method) }
	for _, path := range [...]string{q.folded, strings.ToLower(q.path)} {
		for _, p := range [...]string{path, strings.TrimSuffix(path, "/")} {
			if i := t.denyAt.first(p, applies); i >= 0 {
				return t.denied[i].text
			}
		}
	}
	return ""
}

// pathIndex finds the patterns that match a path without trying them all: a tree
// of segments. It means exactly what policy.PathPattern means.
type pathIndex struct {
	literal map[string]*pathIndex
	star    *pathIndex
	ends    []int // patterns that end here
	below   []int // patterns that end here with "**"
}

func (x *pathIndex) add(p policy.PathPattern, id int) {
	at := x
	for step := range strings.SplitSeq(p.String()[1:], "/") {
		switch step {
		case "**":
			at.below = append(at.below, id)
			return
		case "*":
			if at.star == nil {
				at.star = &pathIndex{}
			}
			at = at.star
		default:
			if at.literal == nil {
				at.literal = map[string]*pathIndex{}
			}
			if at.literal[step] == nil {
				at.literal[step] = &pathIndex{}
			}
			at = at.literal[step]
		}
	}
	at.ends = append(at.ends, id)
}

// first returns the lowest id of a pattern that matches the path and that ok
// accepts; -1 if there is none.
func (x *pathIndex) first(path string, ok func(int) bool) int {
	if x == nil || path == "" || path[0] != '/' {
		return -1
	}
	return x.search(path[1:], true, -1, ok)
}

func (x *pathIndex) search(rest string, more bool, best int, ok func(int) bool) int {
	best = lowest(x.below, best, ok)
	if !more {
		return lowest(x.ends, best, ok)
	}
	step, rest, more := strings.Cut(rest, "/")
	if next := x.literal[step]; next != nil {
		best = next.search(rest, more, best, ok)
	}
	if x.star != nil && step != "" {
		best = x.star.search(rest, more, best, ok)
	}
	return best
}

// lowest returns the first id that is accepted, if it is lower than best. Ids are
// in ascending order.
func lowest(ids []int, best int, ok func(int) bool) int {
	for _, id := range ids {
		if best >= 0 && id >= best {
			break
		}
		if ok(id) {
			return id
		}
	}
	return best
}
