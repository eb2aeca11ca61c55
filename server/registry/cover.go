package registry

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// coveredBy reports whether each of the narrow ones is covered by one of the wide.
// No wide ones limit nothing; no narrow ones are as wide as can be.
func coveredBy[T any](wide, narrow []T, covers func(wide, narrow T) bool) bool {
	if len(wide) == 0 || len(narrow) == 0 {
		return len(wide) == 0
	}
	return !slices.ContainsFunc(narrow, func(n T) bool {
		return !slices.ContainsFunc(wide, func(w T) bool { return covers(w, n) })
	})
}

func equal[T comparable](a, b T) bool { return a == b }

func coversNetwork(wide, narrow netip.Prefix) bool {
	return wide.IsValid() && narrow.IsValid() && wide.Bits() <= narrow.Bits() && wide.Contains(narrow.Addr())
}

// coversResource: "order:*" covers "order:7".
func coversResource(wide, narrow string) bool {
	kind, all := strings.CutSuffix(wide, ":*")
	of, _, _ := strings.Cut(narrow, ":")
	return wide == narrow || all && kind == of
}

// coversWindow: texts of times compare as times, see policy.TimeWindow.
func coversWindow(wide, narrow policy.TimeWindow) bool {
	days := len(wide.Days) == 0
	if !days {
		days = len(narrow.Days) > 0 && !slices.ContainsFunc(narrow.Days, func(d string) bool { return !slices.Contains(wide.Days, d) })
	}
	return days && wide.From <= narrow.From && narrow.To <= wide.To
}
