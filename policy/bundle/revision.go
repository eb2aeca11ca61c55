package bundle

import (
	"cmp"
	"math/big"
	"regexp"
	"strings"
	"time"
)

// order says how two revisions stand to each other.
type order int

const (
	unknown order = iota // they cannot be compared
	older                // the first is lower than the second
	same
	newer
)

// maxRevision bounds a revision, in bytes: it is in every answer.
const maxRevision = 128

// compareRevisions holds a revision against the one that runs. Two whole numbers,
// two versions or two times can be compared; all else is unknown:
//
//	7, r7, v7, 20260131, 1767225600    numbers
//	1.10, v1.10.2, 2.0.0-rc.1+x        versions, as semver.org orders them
//	v1.2.3-14-g1a2b3c4                 git describe: 14 commits after v1.2.3
//	2026-01-31, 2026-01-31T12:00:00Z   times
//
// That a bundle has no revision where the running one has says that it is older
// than the habit of giving them.
func compareRevisions(offered, running string) order {
	switch {
	case offered == running:
		return same
	case offered == "":
		return older
	case running == "":
		return unknown
	}
	for _, compare := range []func(a, b string) (int, bool){compareNumbers, compareTimes, compareVersions} {
		if c, ok := compare(offered, running); ok {
			return same + order(c)
		}
	}
	return unknown
}

var numberPattern = regexp.MustCompile(`^[rv]?([0-9]+)$`)

func compareNumbers(a, b string) (int, bool) {
	x, y := numberPattern.FindStringSubmatch(a), numberPattern.FindStringSubmatch(b)
	if x == nil || y == nil {
		return 0, false
	}
	return compareDigits(x[1], y[1]), true
}

func compareDigits(a, b string) int {
	x, _ := new(big.Int).SetString(a, 10)
	y, _ := new(big.Int).SetString(b, 10)
	return x.Cmp(y)
}

var timeLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02", "20060102T150405Z"}

func compareTimes(a, b string) (int, bool) {
	x, xok := parseTime(a)
	y, yok := parseTime(b)
	return x.Compare(y), xok && yok
}

func parseTime(s string) (time.Time, bool) {
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// version is a dotted number with what semver adds.
type version struct {
	core   []string
	before []string // the identifiers of a pre-release; nil if it is none
	after  string   // how many commits came since the version
}

var (
	versionPattern  = regexp.MustCompile(`^[rv]?([0-9]+(?:\.[0-9]+){0,4})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?$`)
	describePattern = regexp.MustCompile(`^(?:(.+)-)?([0-9]+)-g[0-9a-f]{4,40}$`)
	digitsPattern   = regexp.MustCompile(`^[0-9]+$`)
)

func parseVersion(s string) (v version, ok bool) {
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return v, false
	}
	v.core, v.after = strings.Split(m[1], "."), "0"
	if d := describePattern.FindStringSubmatch(m[2]); d != nil {
		m[2], v.after = d[1], d[2]
	}
	if m[2] != "" {
		v.before = strings.Split(m[2], ".")
	}
	return v, true
}

func compareVersions(a, b string) (int, bool) {
	x, xok := parseVersion(a)
	y, yok := parseVersion(b)
	if !xok || !yok || len(x.core)+len(y.core) < 3 { // two plain numbers with suffixes say nothing
		return 0, false
	}
	for i := range max(len(x.core), len(y.core)) {
		if c := compareDigits(at(x.core, i), at(y.core, i)); c != 0 {
			return c, true
		}
	}
	return cmp.Or(comparePreReleases(x.before, y.before), compareDigits(x.after, y.after)), true
}

func at(core []string, i int) string {
	if i < len(core) {
		return core[i]
	}
	return "0"
}

// comparePreReleases follows semver.org, section 11.
func comparePreReleases(a, b []string) int {
	switch {
	case a == nil || b == nil:
		return cmp.Compare(len(b), len(a)) // a pre-release comes before the release
	}
	for i := range min(len(a), len(b)) {
		x, y := digitsPattern.MatchString(a[i]), digitsPattern.MatchString(b[i])
		var c int
		switch {
		case x && y:
			c = compareDigits(a[i], b[i])
		case x:
			c = -1
		case y:
			c = 1
		default:
			c = strings.Compare(a[i], b[i])
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}
