package server_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/strictyaml"
)

const module = "github.com/postern-auth/postern"

// TestSchemaIsUpToDate makes the schema from the types and their comments. -update
// writes it.
func TestSchemaIsUpToDate(t *testing.T) {
	t.Parallel()
	docs := sources{}
	got := strictyaml.Schema("https://postern.dev/schema/config-1.json", "Postern's configuration", server.Default(), func(typ reflect.Type, field string) string {
		text := docs.of(t, typ, field)
		if text == "" && field != "" {
			t.Errorf("%s.%s has no comment: users of `postern config schema` would see nothing", typ, field)
		}
		return text
	})
	if *update {
		if err := os.WriteFile("config_schema.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(got, server.Schema()) {
		t.Error("config_schema.json is out of date: run go test ./server -run TestSchemaIsUpToDate -update")
	}
	if !json.Valid(got) {
		t.Error("not JSON")
	}
}

// TestSchemaFitsTheFixtures holds every good configuration, and the default,
// against the schema, as an editor does.
func TestSchemaFitsTheFixtures(t *testing.T) {
	t.Parallel()
	if *update {
		t.Skip("the schema is being written")
	}
	var schema map[string]any
	if err := json.Unmarshal(server.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	shown, err := server.Default().Redacted()
	if err != nil {
		t.Fatal(err)
	}
	documents := map[string][]byte{"default": shown}
	for _, name := range fixtures(t, "testdata/config/good/*.yaml") {
		if documents[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, src := range documents {
		var v any
		if err := yaml.Unmarshal(src, &v); err != nil {
			t.Fatal(err)
		}
		conforms(t, name, schema, schema, v)
	}
}

// conforms checks the parts of JSON Schema that the schema uses.
func conforms(t *testing.T, at string, root, s map[string]any, v any) {
	t.Helper()
	if ref, ok := s["$ref"].(string); ok {
		def, ok := root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		if !ok {
			t.Fatalf("%s: no definition %s", at, ref)
		}
		conforms(t, at, root, def, v)
		return
	}
	if either, ok := s["anyOf"].([]any); ok {
		if _, list := v.([]any); list {
			conforms(t, at, root, either[1].(map[string]any), v)
		} else {
			conforms(t, at, root, either[0].(map[string]any), v)
		}
		return
	}
	switch v := v.(type) {
	case map[string]any:
		properties, _ := s["properties"].(map[string]any)
		for k, item := range v {
			p, ok := properties[k].(map[string]any)
			if !ok {
				p, ok = s["additionalProperties"].(map[string]any)
			}
			if !ok {
				t.Errorf("%s: %q is not in the schema", at, k)
				continue
			}
			conforms(t, at+"."+k, root, p, item)
		}
	case []any:
		items, ok := s["items"].(map[string]any)
		if !ok {
			t.Errorf("%s: a list, not %v", at, s["type"])
			return
		}
		for _, item := range v {
			conforms(t, at+"[]", root, items, item)
		}
	case string:
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			t.Errorf("%s: %q does not match %s", at, v, p)
		}
		if s["type"] != "string" {
			t.Errorf("%s: a text, not %v", at, s["type"])
		}
	case bool:
		if s["type"] != "boolean" {
			t.Errorf("%s: true or false, not %v", at, s["type"])
		}
	case int:
		if s["type"] != "integer" && s["type"] != "number" {
			t.Errorf("%s: a number, not %v", at, s["type"])
		}
	}
}

// sources are the comments of a package's structs, by "Type" and "Type.Field".
type sources map[string]map[string]string

// of returns the comment on a field, or on the type if the field is empty, in the
// words of the file: `grpc serves…`, not `GRPC serves…`.
func (s sources) of(t *testing.T, typ reflect.Type, field string) string {
	dir, ok := strings.CutPrefix(typ.PkgPath(), module+"/")
	if !ok {
		return ""
	}
	if s[dir] == nil {
		s[dir] = readComments(t, filepath.Join("..", filepath.FromSlash(dir)))
	}
	if field == "" {
		return s[dir][typ.Name()]
	}
	text := s[dir][typ.Name()+"."+field]
	for i := range typ.NumField() {
		sibling := typ.Field(i)
		name, _, _ := strings.Cut(sibling.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		if sibling.Name == field || isGoName(sibling.Name) {
			text = regexp.MustCompile(`\b`+sibling.Name+`\b`).ReplaceAllString(text, name)
		}
	}
	return text
}

// isGoName reports whether a name could not be a word of a sentence.
func isGoName(name string) bool {
	capitals := strings.IndexFunc(name[1:], unicode.IsUpper) >= 0
	return capitals && strings.ToUpper(name) != name
}

func readComments(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, spec := range g.Specs {
				readType(all, g, spec.(*ast.TypeSpec))
			}
		}
	}
	return all
}

// readType notes the comments of a struct. Fields that stand right below a
// documented one share its comment.
func readType(all map[string]string, g *ast.GenDecl, spec *ast.TypeSpec) {
	body, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	doc := spec.Doc
	if doc == nil {
		doc = g.Doc
	}
	all[spec.Name.Name] = oneLine(doc.Text())
	last := ""
	for _, f := range body.Fields.List {
		if f.Doc != nil {
			last = oneLine(f.Doc.Text())
		} else if f.Comment != nil {
			last = oneLine(f.Comment.Text())
		}
		for _, name := range f.Names {
			all[spec.Name.Name+"."+name.Name] = last
		}
	}
}

// oneLine joins the lines of a paragraph and keeps paragraphs apart.
func oneLine(text string) string {
	paragraphs := strings.Split(strings.TrimSpace(text), "\n\n")
	for i, p := range paragraphs {
		paragraphs[i] = strings.Join(strings.Fields(p), " ")
	}
	return strings.Join(paragraphs, "\n")
}
