package target

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/jose"
)

// place is a rule, ready to be used.
type place struct {
	*Rule
	kind string   // what is named
	from string   // where, for people
	at   int      // of the part in braces that names the tenant, or whose tenant is in front
	ref  []string // the steps of a JSON pointer
}

func (j *job) add(rule *Rule) {
	p := place{Rule: rule, kind: rule.Type}
	if p.kind == "" {
		p.kind = "tenant"
	}
	switch {
	case rule.Path.text != "":
		p.from = "path"
		if p.at = rule.Path.index(partTenant); rule.Separator != "" {
			p.at = slices.IndexFunc(rule.Path.segments, func(s segment) bool { return s.name != "" })
		}
		if rule.Type == "" {
			p.kind = rule.Path.lastPart()
		}
		j.paths = append(j.paths, p)
	case rule.Header != "":
		p.from = "header:" + rule.Header
		j.headers = append(j.headers, p)
	case rule.Query != "":
		p.from = "query:" + rule.Query
		j.queries = append(j.queries, p)
	case rule.Body != "":
		p.from = "body:" + rule.Body
		for step := range strings.SplitSeq(rule.Body[1:], "/") {
			p.ref = append(p.ref, strings.NewReplacer("~1", "/", "~0", "~").Replace(step))
		}
		j.bodies = append(j.bodies, p)
	case rule.Resource != "":
		p.from = "resource:" + rule.Resource
		if rule.Type == "" {
			p.kind = rule.Resource
		}
		j.actions = append(j.actions, p)
	}
}

func (t *Template) lastPart() string {
	parts := t.parts()
	return parts[len(parts)-1]
}

// tenants reads all that the request names of tenants.
func (x *reading) tenants() error {
	j := x.job
	for i := range j.paths {
		if err := x.inPath(&j.paths[i]); err != nil {
			return err
		}
	}
	for i := range j.headers {
		if err := x.inHeader(&j.headers[i]); err != nil {
			return err
		}
	}
	for i := range j.queries {
		if err := x.inQuery(&j.queries[i]); err != nil {
			return err
		}
	}
	for i := range j.actions {
		if err := x.inAction(&j.actions[i]); err != nil {
			return err
		}
	}
	if len(j.bodies) == 0 || x.attributes.Action != nil {
		return nil
	}
	if err := x.parse(); err != nil {
		return err
	}
	for i := range j.bodies {
		if err := x.inBody(&j.bodies[i]); err != nil {
			return err
		}
	}
	return nil
}

// unread is the refusal of a place whose tenant cannot be read.
func unread(p *place, what string) error {
	return refused(policy.ReasonTenant, p.from+": "+what)
}

// name adds what stands at a place.
func (x *reading) name(p *place, text, id string) error {
	if slices.ContainsFunc(p.Shared, func(s string) bool {
		begin, many := strings.CutSuffix(s, "*")
		return text == s || many && strings.HasPrefix(text, begin)
	}) {
		return nil
	}
	tenant := text
	if p.Separator != "" {
		var found bool
		tenant, id, found = strings.Cut(text, p.Separator)
		if !found || id == "" {
			return unread(p, "an id without a tenant in front")
		}
	}
	if tenant == "" || !isClean(tenant) {
		return unread(p, "what is named has no tenant")
	}
	t := x.found()
	if len(t.Resources) == maxResources {
		return refused(policy.ReasonRequestTooLarge, "too many resources are named")
	}
	t.Resources = append(t.Resources, policy.Resource{Type: p.kind, Tenant: tenant, ID: id, From: p.from})
	return nil
}

// maxResources bounds what one request names.
const maxResources = 1024

// missing refuses a request that does not name what it has to.
func missing(p *place) error {
	if p.Required {
		return unread(p, "no tenant is named")
	}
	return nil
}

func (x *reading) inPath(p *place) error {
	if x.attributes.Action != nil && x.request.Path == "" {
		return nil
	}
	text, found, err := x.capture(&p.Path, p.at)
	switch {
	case err != nil:
		return err
	case !found:
		return missing(p)
	}
	id := ""
	if last := len(p.Path.segments) - 1; last > p.at && p.Path.segments[last].name != "" && p.matchesRest(x.request.Segments) {
		id = x.request.Segments[last]
	}
	return x.name(p, text, id)
}

// matchesRest reports whether what follows the tenant is as the template has it.
func (p *place) matchesRest(segments []string) bool {
	if len(segments) < len(p.Path.segments) {
		return false
	}
	for i := p.at + 1; i < len(p.Path.segments); i++ {
		if s := p.Path.segments[i]; segments[i] == "" || s.literal != "" && foldSegment(segments[i]) != s.literal {
			return false
		}
	}
	return true
}

// capture returns the segment of the path that stands for a part of the template, if
// the path is as the template up to there. It is compared as the most forgiving server
// would, because that one takes /TENANTS/acme for the same; what is returned is the
// segment as it is. A path that names something else there in the other reading is
// refused.
func (x *reading) capture(t *Template, at int) (text string, found bool, err error) {
	q := x.request
	if q.Folded == q.Path {
		if t.matches(q.Segments, at, false) {
			return q.Segments[at], true, nil
		}
		return "", false, nil
	}
	folded := strings.Split(strings.TrimPrefix(q.Folded, "/"), "/")
	plain, forgiving := t.matches(q.Segments, at, true), t.matches(folded, at, false)
	switch {
	case !plain && !forgiving:
		return "", false, nil
	case forgiving && (len(q.Segments) <= at || foldSegment(q.Segments[at]) != folded[at]):
		return "", false, invalid("a forgiving server would read something else in the path")
	}
	return q.Segments[at], true, nil
}

// matches compares the segments up to a position with the template.
func (t *Template) matches(segments []string, at int, fold bool) bool {
	if len(segments) <= at {
		return false
	}
	for i, s := range t.segments[:at+1] {
		got := segments[i]
		if s.literal != "" && fold {
			got = foldSegment(got)
		}
		if got == "" || s.literal != "" && got != s.literal {
			return false
		}
	}
	return true
}

func foldSegment(s string) string { return canonical.Fold("/" + s)[1:] }

func (x *reading) inHeader(p *place) error {
	named := false
	for i := range x.attributes.Headers {
		if h := &x.attributes.Headers[i]; h.Name == p.Header {
			named = true
			if err := x.name(p, h.Value, ""); err != nil {
				return err
			}
		}
	}
	if !named {
		return missing(p)
	}
	return nil
}

// inQuery reads every parameter that some server takes for the one that counts: of any
// letter case, behind spaces, as an element of an array, and with ";" between parameters
// as well as "&".
func (x *reading) inQuery(p *place) error {
	named := false
	for _, separators := range []string{"&", "&;"} {
		for pair := range strings.FieldsFuncSeq(x.request.Query, func(c rune) bool { return strings.ContainsRune(separators, c) }) {
			name, value, _ := strings.Cut(pair, "=")
			if !namesParameter(name, p.Query) {
				continue
			}
			text, err := url.PathUnescape(value)
			if err != nil || strings.ContainsAny(value, "+=") {
				return invalid("a value of the query can be read in two ways")
			}
			if err := x.name(p, text, ""); err != nil {
				return err
			}
			named = true
		}
		if !strings.Contains(x.request.Query, ";") {
			break
		}
	}
	if !named {
		return missing(p)
	}
	return nil
}

func namesParameter(name, parameter string) bool {
	if name == parameter {
		return true
	}
	if decoded, err := url.QueryUnescape(name); err == nil {
		name = decoded
	}
	name, _, _ = strings.Cut(name, "[")
	name, _, _ = strings.Cut(name, "\x00")
	return alike(strings.TrimSpace(name), parameter)
}

func (x *reading) inAction(p *place) error {
	action := x.attributes.Action
	if action == nil || action.ResourceType != p.Resource {
		return nil
	}
	if action.ResourceID == "" {
		return missing(p)
	}
	return x.name(p, action.ResourceID, "")
}

func (x *reading) inBody(p *place) error {
	named, err := x.walk(p, x.body, p.ref)
	if err == nil && !named {
		return missing(p)
	}
	return err
}

// walk follows a JSON pointer. A member that looks like a step of it is as good as that
// one to some servers, and so is refused; as is an array where the pointer names a member,
// or an object where it means all elements, which a server may take for the other.
func (x *reading) walk(p *place, v jose.Value, steps []string) (named bool, err error) {
	if !v.Exists() || v.Kind() == jose.Null {
		return false, nil
	}
	if len(steps) == 0 {
		text, ok := v.Text()
		if !ok {
			return true, unread(p, "what is named is no text")
		}
		return true, x.name(p, text, "")
	}
	step := steps[0]
	_, err = strconv.Atoi(step)
	switch element := step == "*" || err == nil; {
	case v.Kind() == jose.Object && step != "*":
		o := objectOf(v, p.from, namesOf(step))
		if o.err != nil {
			return false, o.err
		}
		return x.walk(p, v.Get(step), steps[1:])
	case v.Kind() == jose.Array && element:
		i := 0
		for e := range v.Elements() {
			if step == "*" || step == strconv.Itoa(i) {
				below, err := x.walk(p, e, steps[1:])
				if named = named || below; err != nil {
					return named, err
				}
			}
			i++
		}
		return named, nil
	case v.Kind() == jose.Object, v.Kind() == jose.Array:
		return true, invalid(p.from + ": the body has another shape than the rule")
	}
	return true, unread(p, "what is named is neither an object nor an array")
}
