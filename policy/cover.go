package policy

import (
	"slices"
	"strings"
)

// Covers reports whether r certainly takes every request that other would take, so
// that other is never reached behind it. It says no where each of several patterns
// covers a part and only all together cover the whole.
func (r *Route) Covers(other *Route) bool {
	return coverAll(r.Hosts, other.Hosts, HostPattern.Covers) &&
		coverAll(r.Methods, other.Methods, coversMethod) &&
		coverAll(r.Paths, other.Paths, PathPattern.Covers) &&
		coversExtensions(r.Extensions, other.Extensions)
}

// coversExtensions reports whether the narrow one asks for all that the wide one does.
func coversExtensions(wide, narrow map[string]string) bool {
	for name, value := range wide {
		if got, ok := narrow[name]; !ok || got != value {
			return false
		}
	}
	return true
}

// coverAll reports whether each of the narrow ones is covered by one of the wide.
// No wide ones stand for all there are, and so do no narrow ones.
func coverAll[T any](wide, narrow []T, covers func(wide, narrow T) bool) bool {
	if len(wide) == 0 || len(narrow) == 0 {
		return len(wide) == 0
	}
	return !slices.ContainsFunc(narrow, func(n T) bool {
		return !slices.ContainsFunc(wide, func(w T) bool { return covers(w, n) })
	})
}

// coversMethod is what Route.Match makes of methods: GET also picks HEAD.
func coversMethod(wide, narrow string) bool {
	return wide == narrow || wide == "GET" && narrow == "HEAD"
}

// Covers reports whether every path that fits other fits p as well.
func (p PathPattern) Covers(other PathPattern) bool {
	n := len(p.segments)
	switch {
	case p.text == "" || other.text == "":
		return false
	case len(other.segments) < n, !p.subtree && (other.subtree || len(other.segments) > n):
		return false
	}
	for i, want := range p.segments {
		if got := other.segments[i]; want != got && (want != "*" || got == "") {
			return false
		}
	}
	return true
}

// Covers reports whether every host that fits other fits p as well.
func (p HostPattern) Covers(other HostPattern) bool {
	if p.text == "" || other.text == "" {
		return false
	}
	if suffix, ok := strings.CutPrefix(other.text, "*"); ok {
		return p.text[0] == '*' && strings.HasSuffix(suffix, p.text[1:])
	}
	return p.Match(other.text)
}
