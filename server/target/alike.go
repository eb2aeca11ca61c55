package target

import "strings"

// names are those that count in one place, each with what is left of it for a forgiving
// server.
type names []struct{ name, bare string }

func namesOf(all ...string) names {
	n := make(names, len(all))
	for i, name := range all {
		n[i].name, n[i].bare = name, bare(name)
	}
	return n
}

// mistaken returns the name that counts for which a forgiving server takes this one,
// which is another; "" if there is none.
func (n names) mistaken(name string) string {
	for i := range n {
		if n[i].name == name {
			return ""
		}
	}
	left := bare(name)
	for i := range n {
		if strings.EqualFold(left, n[i].bare) {
			return n[i].name
		}
	}
	return ""
}

// alike reports whether a forgiving server may take one name for the other: without
// regard to letter case, as encoding/json of Go does it, and to "_", "-", "." and
// spaces, as protojson, PHP and many frameworks do.
func alike(a, b string) bool { return a == b || strings.EqualFold(bare(a), bare(b)) }

func bare(name string) string {
	if !strings.ContainsAny(name, "_-. ") {
		return name
	}
	return strings.Map(func(c rune) rune {
		if strings.ContainsRune("_-. ", c) {
			return -1
		}
		return c
	}, name)
}
