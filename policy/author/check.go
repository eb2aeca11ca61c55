package author

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Check says everything that is wrong with a policy, in the order of its files: what
// the server would refuse, what it would warn about, and what reads fields of the
// input that no request has. Tests, if there are any, are compiled with it.
func Check(ctx context.Context, b *rego.Bundle, tests *Tests, config rego.Config) (rego.Problems, error) {
	config.Strict = true
	var all rego.Problems
	_, err := rego.Compile(ctx, b, config)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	collect(&all, err)
	all = append(all, unknownFields(b, config)...)
	if tests != nil && len(all) == 0 { // else the same would be said of them again
		collect(&all, tests.compiles(b, config))
	}
	slices.SortStableFunc(all, func(x, y rego.Problem) int {
		return cmp.Or(strings.Compare(x.File, y.File), x.Line-y.Line, x.Column-y.Column)
	})
	return slices.Compact(all), nil
}

// collect adds what is wrong. Mistakes in the tables have no line of their own.
func collect(all *rego.Problems, err error) {
	var found rego.Problems
	switch {
	case errors.As(err, &found):
		*all = append(*all, found...)
	case err != nil:
		*all = append(*all, rego.Problem{Text: err.Error()})
	}
}

// unknownFields compiles the policy against the schema of the input and returns what
// that alone finds.
func unknownFields(b *rego.Bundle, config rego.Config) (found rego.Problems) {
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, rego.InputSchema())
	compiler := newCompiler(config).WithSchemas(schemas)
	if compiler.Compile(copies(b.Modules())); !compiler.Failed() {
		return nil
	}
	for _, e := range compiler.Errors {
		if e.Code != ast.TypeErr || e.Location == nil {
			continue // said by the compiler without a schema as well
		}
		if text := fieldProblem(e); text != "" {
			found = append(found, rego.Problem{File: e.Location.File, Line: e.Location.Row, Column: e.Location.Col, Text: text})
		}
	}
	return found
}

// fieldProblem says in our words what the type checker found out about the input; ""
// if it is about something else.
func fieldProblem(e *ast.Error) string {
	switch d := e.Details.(type) {
	case *ast.RefErrInvalidDetail:
		if !d.Ref.HasPrefix(ast.InputRootRef) || d.Pos >= len(d.Ref) {
			return ""
		}
		name := strings.Trim(d.Ref[d.Pos].Value.String(), `"`)
		return noSuchField(d.Ref[:d.Pos].String(), name, d.OneOf)
	case *ast.RefErrUnsupportedDetail:
		if !d.Ref.HasPrefix(ast.InputRootRef) {
			return ""
		}
		return fmt.Sprintf("%s is no object: nothing stands below it", d.Ref[:d.Pos+1])
	}
	if strings.Contains(e.Message, "match error") {
		return "the two sides never match: they are of different types (" + oneLine(e) + ")"
	}
	return ""
}

func noSuchField(parent, name string, oneOf []ast.Value) string {
	var names []string
	for _, v := range oneOf {
		if s, ok := v.(ast.String); ok {
			names = append(names, string(s))
		}
	}
	slices.Sort(names)
	text := fmt.Sprintf("there is no %s.%s", parent, name)
	if near := strictyaml.Suggest(name, names); near != "" {
		return text + "; " + near
	}
	if len(names) > 0 {
		return fmt.Sprintf("%s; there are %s", text, strings.Join(names, ", "))
	}
	return text
}

// oneLine is the detail of an error without its lines.
func oneLine(e *ast.Error) string {
	if e.Details == nil {
		return e.Message
	}
	lines := e.Details.Lines()
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	return strings.Join(lines, "; ")
}

// newCompiler is a compiler with what a policy may call.
func newCompiler(config rego.Config) *ast.Compiler {
	return ast.NewCompiler().SetErrorLimit(100).WithStrict(true).WithCapabilities(rego.Capabilities(config))
}

// copies protects a bundle, because compiling rewrites modules in place.
func copies(modules map[string]*ast.Module) map[string]*ast.Module {
	for name, m := range modules {
		modules[name] = m.Copy()
	}
	return modules
}
