package rego_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Any policy that compiles is analyzed without a panic, and soundly.
func FuzzAnalyze(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/*.rego")
	for i, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(source), uint64(i))
	}
	f.Fuzz(func(t *testing.T, source string, seed uint64) {
		if len(source) > 4096 || strings.Contains(source, "numbers.range") {
			t.Skip("too much to evaluate")
		}
		module, err := ast.ParseModule("fuzz.rego", source)
		if err != nil {
			t.Skip(err)
		}
		s, err := newSubject(map[string]*ast.Module{"fuzz": module}, module.Package.Path.String(), nil, trickySamples...)
		if err != nil {
			t.Skip(err)
		}
		s.mustBeSound(t, seed, 6)
	})
}
