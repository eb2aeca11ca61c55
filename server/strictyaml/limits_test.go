package strictyaml_test

import (
	"strings"
	"testing"

	"github.com/postern-auth/postern/server/strictyaml"
)

// TestHostileFiles reads files that are a quarter of what is allowed and made to cost
// time or memory; the test's own deadline is the bound.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	const size = 1 << 18
	fill := func(head, unit, tail string) string {
		return head + strings.Repeat(unit, (size-len(head)-len(tail))/len(unit)) + tail
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 8 {
		a := string(rune('a' + i))
		bomb += string(rune('b'+i)) + ": &" + string(rune('b'+i)) + " [" + strings.Repeat("*"+a+",", 9) + "]\n"
	}
	for name, src := range map[string]string{
		"open brackets":    fill("", "[", ""),
		"open braces":      fill("", "{a: ", ""),
		"nested dashes":    fill("", "- ", "x"),
		"question marks":   fill("", "? ", "x"),
		"unknown fields":   fill("", "zzz: 1\n", ""),
		"unknown in flow":  fill("{", "zz: 1, ", "}"),
		"one long name":    fill("", "x", ": 1"),
		"one long line":    fill("title: [", "a, ", "]"),
		"wrong values":     fill("nets: [", "a,", "]"),
		"secrets":          fill("peppers: [", "a,", "]"),
		"wrong structs":    fill("services:\n", "- {name: a, port: 1}\n", ""),
		"missing names":    fill("services:\n", "- {}\n", ""),
		"quotes":           fill("title: ", `"`, ""),
		"anchors":          fill("", "- &a x\n", ""),
		"alias bomb":       bomb,
		"comments":         fill("", "#\n", ""),
		"documents":        fill("", "---\n", ""),
		"tabs":             fill("", "\t-\n", ""),
		"deep indentation": fill("", " ", "x: 1"),
		"too large":        strings.Repeat("a", 1<<20+1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decode(src)
			if err == nil {
				t.Fatal("accepted")
			}
			if n := len(err.Error()); n > 200_000 {
				t.Errorf("%d bytes of errors", n)
			}
		})
	}
	if _, err := decode("title: x", strictyaml.WithMaxSize(7)); err == nil || !strings.Contains(err.Error(), "larger than 7 bytes") {
		t.Errorf("limit: %v", err)
	}
}
