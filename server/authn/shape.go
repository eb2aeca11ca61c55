package authn

import "strings"

// Shape is what kind of token a text looks like, as a set: a text can look like two.
// It only chooses whom to ask, and proves nothing.
type Shape uint8

// The shapes.
const (
	// ShapeOpaque is a text that says nothing about itself.
	ShapeOpaque Shape = 1 << iota
	// ShapeSigned is three parts between dots, as a compact JWS (RFC 7515 section 7.1),
	// or what begins as the encoding of a JSON object does.
	ShapeSigned
	// ShapeVault has a prefix of the tokens of Vault or OpenBao: hvs., hvb., hvr., and
	// the older s., b., r. before 24 characters or more.
	ShapeVault
)

// minLegacyVault is the length from which s., b. and r. are taken for prefixes: the
// tokens of Vault before 1.10, and of OpenBao, have 24 characters behind them.
const minLegacyVault = 2 + 24

// shapesOf returns all shapes that the text has; ShapeOpaque if it has no other.
func shapesOf(text string) Shape {
	var s Shape
	if strings.Count(text, ".") == 2 || strings.HasPrefix(text, "eyJ") {
		s |= ShapeSigned
	}
	if looksVault(text) {
		s |= ShapeVault
	}
	if s == 0 {
		return ShapeOpaque
	}
	return s
}

func looksVault(text string) bool {
	prefix, _, found := strings.Cut(text[:min(len(text), 4)], ".")
	if !found {
		return false
	}
	switch prefix {
	case "hvs", "hvb", "hvr":
		return true
	case "s", "b", "r":
		return len(text) >= minLegacyVault
	}
	return false
}

// single reports whether the set has one member.
func (s Shape) single() bool { return s&(s-1) == 0 }
