package rego

import (
	"iter"
	"net/url"
	"path"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// maxReadings bounds how many layers of encoding are taken off a path.
const maxReadings = 6

// readings yields a canonical path, folded, and then every further reading that
// a sloppy server behind might have of it: percent-escapes decoded once more,
// backslashes as slashes, parameters and what follows a NUL cut off, compatible
// characters replaced, dots resolved. They are for denies only, where reading too
// much costs nothing; what allows must have one reading.
func readings(canonical string) iter.Seq[string] {
	return func(yield func(string) bool) {
		p := fold(canonical)
		for range maxReadings {
			if !yield(p) || isPlain(p) {
				return
			}
			p = fold(reread(p))
		}
	}
}

// isPlain reports that a folded path has no other reading.
func isPlain(p string) bool {
	for i := range len(p) {
		switch c := p[i]; {
		case c >= 0x80, c < ' ', c == '%', c == '\\', c == ';':
			return false
		case c == '/' && i+1 < len(p) && (p[i+1] == '/' || p[i+1] == '.'):
			return false
		}
	}
	return true
}

// fold puts text into one letter case and one form of compatible characters
// (Unicode NFKC).
func fold(s string) string {
	for i := range len(s) {
		if s[i] >= 0x80 {
			// Twice, because lower case can take a text out of NFKC.
			return norm.NFKC.String(strings.ToLower(norm.NFKC.String(s)))
		}
	}
	return strings.ToLower(s)
}

func reread(p string) string {
	if u, err := url.PathUnescape(p); err == nil {
		p = u
	}
	p, _, _ = strings.Cut(p, "\x00")
	steps := strings.Split(strings.ReplaceAll(p, `\`, "/"), "/")
	for i, step := range steps {
		steps[i], _, _ = strings.Cut(step, ";")
	}
	return path.Clean("/" + strings.Join(steps, "/"))
}
