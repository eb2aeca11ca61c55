package authn

import "strings"

// Shape is what kind of token a text looks like. It only chooses whom to ask, and
// proves nothing. A Link has a set of them.
type Shape uint8

// The shapes. A text has exactly one: no encoding of a JSON object begins as the tokens
// of Vault do.
const (
	// ShapeOpaque is a text that says nothing about itself.
	ShapeOpaque Shape = 1 << iota
	// ShapeSigned is three parts between dots, as a compact JWS (RFC 7515 section 7.1),
	// or what begins as the encoding of a JSON object does.
	ShapeSigned
	// ShapeVault has a prefix of the tokens of Vault or OpenBao: hvs., hvb., hvr., and
	// the older s., b., r. before 24 characters or more. A namespace may follow after
	// another dot.
	ShapeVault
)

// minLegacyVault is the length from which s., b. and r. are taken for prefixes: the
// tokens of Vault before 1.10, and of OpenBao, have 24 characters behind them.
const minLegacyVault = 2 + 24

// shapeOf returns the shape of a text.
func shapeOf(text string) Shape {
	switch {
	case LooksVault(text):
		return ShapeVault
	case strings.Count(text, ".") == 2 || strings.HasPrefix(text, "eyJ"):
		return ShapeSigned
	}
	return ShapeOpaque
}

// LooksVault reports whether a text has the shape of a token of Vault or OpenBao.
func LooksVault(text string) bool {
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
