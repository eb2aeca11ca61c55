package strictyaml

import (
	"fmt"
	"strings"
)

// Suggest returns a suggestion for a word that is not one of the candidates:
// `did you mean "issuers"?`, or "" if none is near. Types with a Check of their
// own use it for names that only they know.
func Suggest(word string, candidates []string) string {
	if near, ok := nearest(word, candidates); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// nearest returns the candidate that the word was probably meant to be: the same
// letters in another case or with other separators, or a few typing errors away.
func nearest(word string, candidates []string) (string, bool) {
	best, distance := "", 1+max(1, min(3, len(word)/3))
	for _, c := range candidates {
		if fold(c) == fold(word) {
			return c, true
		}
		if len(word) > 64 {
			continue
		}
		if d := edits(strings.ToLower(word), c); d < distance {
			best, distance = c, d
		}
	}
	return best, best != ""
}

func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
}

// edits counts the insertions, deletions, replacements and swaps of neighbours
// between two words (optimal string alignment).
func edits(a, b string) int {
	before, above := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above = above, row
	}
	return above[len(b)]
}
