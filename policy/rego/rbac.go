package rego

import (
	"fmt"
	"net/http"
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
	byFold  *pathIndex // the same routes with their paths in lower case
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

// rbacRoute is one path of one route.
type rbacRoute struct {
	path        string // in lower case
	methods     methods
	permissions []string
	scopes      []string
}

type rbacDeny struct {
	methods methods
	text    string
}

// methods are those of one entry of the tables; none means all.
type methods struct {
	listed []string
	upper  []string
	// head says that GET stands for HEAD as well, a GET without the content (RFC
	// 9110 section 9.3.2). Not so where another route of the path lists HEAD.
	head bool
}

func newMethods(listed []string) methods {
	m := methods{listed: listed, upper: make([]string, len(listed))}
	for i := range listed {
		m.upper[i] = strings.ToUpper(listed[i])
	}
	m.head = slices.Contains(m.upper, http.MethodGet)
	return m
}

// covers reads the method, given in upper case, as a forgiving server would.
func (m *methods) covers(method string) bool {
	return hasMethod(m.upper, method) || m.head && method == http.MethodHead
}

// permissionSet holds permissions by name, and prefixes of those written with a
// "*" at the end. Few names are in a list: a map for each of 10,000 roles takes longer
// to make, and to collect, than all else.
type permissionSet struct {
	few      []string
	many     map[string]bool // those beyond the first fewNames
	prefixes []string
}

// fewNames are found about as soon in a list as in a map.
const fewNames = 8

func (s *permissionSet) has(name string) bool {
	return slices.Contains(s.few, name) || s.many[name] || slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (s *permissionSet) add(pattern string) {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		s.prefixes = append(s.prefixes, prefix)
		return
	}
	switch {
	case len(s.few) < fewNames:
		s.few = append(s.few, pattern)
		return
	case s.many == nil:
		s.many = map[string]bool{}
	}
	s.many[pattern] = true
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
	// narrowed are permissions that count where the user's own grant them too
	// (policy.Narrowed). What the user's roles deny is denied in any case.
	narrowed, userRoles, userPermissions []string
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
	readings := q.readings()
	if a.denied = t.deniedPath(q, readings); a.denied != "" {
		return a
	}
	own := holder{q.permissions, t.rolesOf(q.roles)}
	user := holder{q.userPermissions, t.rolesOf(q.userRoles)}
	permissions, scopes, enough := t.required(q, readings)
	for _, p := range permissions {
		if !t.permits(q, own, user, p) {
			a.missingPermissions = append(a.missingPermissions, p)
		}
	}
	for _, s := range scopes {
		if !t.inScope(q.scopes, s) {
			a.missingScopes = append(a.missingScopes, s)
		}
	}
	if len(a.missingPermissions)+len(a.missingScopes) == 0 {
		a.allow = enough || t.grantsPath(q, own.roles)
	}
	return a
}

// required is what the tables and the route together demand, and whether having it
// is enough: it is not where nothing but another reading of the request demands
// something. So /ADMIN must meet the demands of /admin, whatever else allows it,
// and is not allowed because /admin would be.
func (t *rbac) required(q *question, readings readings) (permissions, scopes []string, enough bool) {
	permissions, scopes = oneOrNone(q.permission), q.requiredScopes
	if q.action != "" {
		return addMissing(permissions, oneOrNone(q.action)), scopes, true
	}
	exact := t.routeOf(q)
	enough = exact >= 0 || len(permissions)+len(scopes) > 0
	demand := func(i int) {
		if i >= 0 {
			permissions = addMissing(permissions, t.routes[i].permissions)
			scopes = addMissing(scopes, t.routes[i].scopes)
		}
	}
	demand(exact)
	method := strings.ToUpper(q.method)
	for _, path := range readings {
		demand(t.byFold.first(path, func(i int) bool { return hasMethod(t.routes[i].methods.upper, method) }))
		if method == http.MethodHead {
			demand(t.byFold.first(path, func(i int) bool { return t.routes[i].methods.covers(method) }))
		}
	}
	return permissions, scopes, enough
}

// routeOf returns the first route that matches, -1 if none does. A HEAD that has
// none of its own has that of GET.
func (t *rbac) routeOf(q *question) int {
	i := t.byPath.first(q.path, func(i int) bool { return hasMethod(t.routes[i].methods.listed, q.method) })
	if i < 0 && q.method == http.MethodHead {
		i = t.byPath.first(q.path, func(i int) bool {
			m := &t.routes[i].methods
			return m.head && hasMethod(m.listed, http.MethodGet)
		})
	}
	return i
}

// readings are the paths that forgiving servers may take one path for; "" is none.
type readings [4]string

// readings are the path in any letter case and as Postern folds it, each with and
// without a slash at the end. The two are different ones: of /ADMIN/a%2Fb, only the
// first is one segment below /admin.
func (q *question) readings() (all readings) {
	if q.path == "" {
		return all
	}
	lower := strings.ToLower(q.path)
	all[0], all[1] = lower, otherSlash(lower)
	if q.folded != "" && q.folded != lower {
		all[2], all[3] = q.folded, otherSlash(q.folded)
	}
	return all
}

func otherSlash(path string) string {
	if trimmed, ok := strings.CutSuffix(path, "/"); ok {
		return trimmed
	}
	return path + "/"
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

// holder is somebody with rights of their own and with those of roles.
type holder struct {
	permissions []string
	roles       []int
}

// permits reports whether the caller holds the permission, and nothing denies it. A
// deny of any role wins over a grant of any other, and so does one of the user for
// whom a narrowed token stands.
func (t *rbac) permits(q *question, own, user holder, permission string) bool {
	folded := strings.ToLower(permission)
	if t.never.has(folded) || t.denies(own.roles, folded) || t.denies(user.roles, folded) {
		return false
	}
	return t.grantsTo(own, permission) || covers(q.narrowed, permission) && t.grantsTo(user, permission)
}

func (t *rbac) denies(roles []int, folded string) bool {
	for _, role := range roles {
		for _, i := range t.grants[role].all {
			if t.grants[i].denied.has(folded) {
				return true
			}
		}
	}
	return false
}

func (t *rbac) grantsTo(h holder, permission string) bool {
	if covers(h.permissions, permission) {
		return true
	}
	for _, role := range h.roles {
		for _, i := range t.grants[role].all {
			if t.grants[i].permissions.has(permission) {
				return true
			}
		}
	}
	return false
}

// covers reports whether one of the permissions, which a caller brings, is this one
// or a wildcard that stands for it.
func covers(held []string, permission string) bool {
	return slices.ContainsFunc(held, func(pattern string) bool {
		prefix, star := strings.CutSuffix(pattern, "*")
		return pattern == permission || star && checkPermission(pattern) == nil && strings.HasPrefix(permission, prefix)
	})
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

// deniedPath looks for a deny of any reading of the request: reading too much costs
// a deny nothing.
func (t *rbac) deniedPath(q *question, readings readings) string {
	method := strings.ToUpper(q.method)
	for _, path := range readings {
		if i := t.denyAt.first(path, func(i int) bool { return t.denied[i].methods.covers(method) }); i >= 0 {
			return t.denied[i].text
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
