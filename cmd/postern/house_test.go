package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/postern-auth/postern/"

// floors says on which floor a package lives. A package imports lower floors
// only: what decides cannot come to depend on what carries or assembles, and
// whoever reads a room needs to know only what lies under it.
var floors = []struct {
	packages string // as in path.Match
	floor    int
}{
	{"cmd/postern", 6},
	{"cmd/postern/doctor", 5}, // looks at a server as its commands do, and knows its configuration
	{"cmd/postern/client", 4}, // which both of them ask servers with
	{"server", 4},
	{"server/door/*", 3}, {"server/admin", 3},
	{"server/store/table", 1}, {"server/store/memory", 1}, // which others of them are made of or compared with
	{"server/check", 2}, {"server/authn/*", 2}, {"server/mirror", 2}, {"server/registry", 2}, {"server/store/*", 2}, {"policy/bundle", 2}, {"policy/author", 2},
	{"server/door", 2},                                 // what the doors share
	{"server/trace", 2}, {"server/trace/tracetest", 1}, // a recorder, as server/audit has them
	{"server/target", 2}, // reads bodies by server/jose, paths by server/canonical
	{"server/authn", 1}, {"server/canonical", 1}, {"server/jose", 1}, {"server/audit", 1}, {"server/signer", 1}, {"server/breaker", 1}, {"server/budget", 1}, {"server/rate", 1}, {"server/password", 1}, {"policy/rego", 1},
	{"policy/lib", 0}, {"server/seal", 0}, {"server/store", 0}, {"server/strictyaml", 0}, {"server/outbound", 0}, {"server/tally", 0}, {"server/histogram", 0}, {"server/guard", 0}, {"server/vectortest", 0}, {"deploy", 0},
	{"policy", -1}, {"server/regular", -1}, // the ground: words, and files that are none but files
}

// reserved says who alone may import what, and why.
var reserved = []struct {
	imports string
	by      []string
	why     string
}{
	{"github.com/open-policy-agent/opa", []string{"policy/rego", "policy/bundle", "policy/author"}, "an engine behind one door can be measured and replaced"},
	{"github.com/envoyproxy/", []string{"server/door", "cmd/", "bench/"}, "the wire stays in the doors"},
	{module + "gen/", []string{"server/door", "server/admin", "server/guard", "cmd/", "bench/"}, "the wire stays in the doors and in clients"},
	{"github.com/golang-jwt/jwt", []string{"server/jose"}, "signatures are verified in one place, behind the strict parser"},
	{"unsafe", nil, "nothing here is worth it"},
}

func TestHouse(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		rel = filepath.ToSlash(rel)
		if d.IsDir() && (strings.HasPrefix(rel, ".") && rel != "." || rel == "gen" || rel == "bench" || d.Name() == "testdata" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		files++
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			checkImport(t, path.Dir(rel), rel, imported)
		}
		return nil
	})
	if err != nil || files < 30 {
		t.Fatalf("%d files, %v", files, err)
	}
}

func checkImport(t *testing.T, pkg, file, imported string) {
	t.Helper()
	if pkg == "policy" && strings.Contains(strings.Split(imported, "/")[0], ".") {
		t.Errorf("%s imports %s: policy is of the standard library only", file, imported)
	}
	for _, r := range reserved {
		if strings.HasPrefix(imported, r.imports) && !within(pkg, r.by) {
			t.Errorf("%s imports %s, but only %v may: %s", file, imported, r.by, r.why)
		}
	}
	other, ours := strings.CutPrefix(imported, module)
	if !ours || strings.HasPrefix(other, "gen/") {
		return
	}
	from, to := floor(t, pkg), floor(t, other)
	if to >= from {
		t.Errorf("%s is on floor %d and imports %s on floor %d", file, from, other, to)
	}
}

func within(pkg string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(pkg+"/", strings.TrimSuffix(p, "/")+"/") {
			return true
		}
	}
	return false
}

func floor(t *testing.T, pkg string) int {
	t.Helper()
	for _, f := range floors {
		if ok, _ := path.Match(f.packages, pkg); ok {
			return f.floor
		}
	}
	t.Errorf("package %s stands on no floor", pkg)
	return 0
}

// The top level is fixed: a stranger sees the architecture in the folders.
func TestTopLevel(t *testing.T) {
	t.Parallel()
	known := " .ci .git .gitignore .golangci.yml CHANGELOG.md LICENSE README.md bench buf.gen.yaml buf.yaml cmd deploy docs gen go.mod go.sum policy proto server "
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.Contains(known, " "+e.Name()+" ") {
			t.Errorf("%s is not one of%s", e.Name(), known)
		}
	}
}
