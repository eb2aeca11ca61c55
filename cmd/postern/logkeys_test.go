package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestPageOfLogs holds the keys of docs/logs.md against those that the code writes.
func TestPageOfLogs(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, row := range tableRows(t, "docs/logs.md", "| key") {
		for key := range strings.SplitSeq(row[0], ",") {
			documented[strings.Trim(key, " `")] = true
		}
	}
	written := map[string]string{} // key to a place
	for _, root := range []string{"server", "policy", "cmd"} {
		if err := filepath.WalkDir(filepath.Join(repository, root), func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					for _, key := range logKeys(call) {
						written[key] = name
					}
				}
				return true
			})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(written)) {
		if !documented[key] {
			t.Errorf("docs/logs.md does not say what %q is (%s)", key, written[key])
		}
	}
	for _, key := range []string{"decision_id", "trace_id", "error", "because"} {
		if written[key] == "" {
			t.Errorf("%q is not found in the code: this test looks in the wrong way", key)
		}
	}
}

// logKeys are the keys that a call gives to a line of the log.
func logKeys(call *ast.CallExpr) (keys []string) {
	to, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	text := func(e ast.Expr) string {
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return ""
		}
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	if pkg, ok := to.X.(*ast.Ident); ok && pkg.Name == "slog" {
		if constructors := "String Int Int64 Uint64 Bool Any Duration Time Float64 Group"; slices.Contains(strings.Fields(constructors), to.Sel.Name) && len(call.Args) > 0 {
			if key := text(call.Args[0]); key != "" {
				return []string{key}
			}
		}
		return nil
	}
	from := map[string]int{"Debug": 1, "Info": 1, "Warn": 1, "Error": 1}[to.Sel.Name]
	if from == 0 || len(call.Args) == 0 || text(call.Args[0]) == "" {
		return nil
	}
	for i := from; i < len(call.Args); i += 2 {
		if key := text(call.Args[i]); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}
