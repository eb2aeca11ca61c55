package rego_test

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-auth/postern/policy/rego"
)

// withSchema compiles a policy against the schema of the input.
func withSchema(t *testing.T, text string) ast.Errors {
	t.Helper()
	bundle, err := rego.LoadFS(module(text), rego.Config{})
	if err != nil {
		t.Fatal(err)
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, rego.InputSchema())
	compiler := ast.NewCompiler().WithCapabilities(rego.Capabilities(rego.Config{})).WithSchemas(schemas)
	compiler.Compile(bundle.Modules())
	return compiler.Errors
}

// A misspelt field is an error with its line. What there is, is not, in the library
// neither; and names that a request brings along are open.
func TestInputSchema(t *testing.T) {
	t.Parallel()
	for text, wrong := range map[string]string{
		`decision if "a" in input.principal.rolse`:                                         "rolse",
		"x := 1\ndecision if input.princpal.id == \"ann\"":                                 "princpal",
		`decision if input.request.segments.first`:                                         "first",
		`decision if input.attributes.request.http.header`:                                 "header",
		`decision if input.target.action.resource_typ == "x"`:                              "resource_typ",
		`decision if startswith(input.principal.tenent, "a")`:                              "tenent",
		`decision if input.principal.claims.anything.at.all == input.context.mine`:         "",
		`decision if input.attributes.request.http.headers["x-mine"] == "1"`:               "",
		`decision if input.parsed_body.a[0].b == input.parsed_query.page[0]`:               "",
		`decision if input.principal.metadata.team == input.route.labels.team`:             "",
		`decision if input.attributes.metadataContext.filterMetadata.x.y == input.peer.id`: "",
		`decision if input.principal.actors[0].kind == "agent"`:                            "",
		`decision if input.target.modell == "x"`:                                           "modell",
		`decision if input.agreement.approver.id == "x"`:                                   "approver",
		`decision if input.target.tools[0].arguments.to == input.target.tier`:              "",
		`decision if input.agreement.approval.roles[0] == input.target.resources[0].type`:  "",
	} {
		errs := withSchema(t, text)
		switch {
		case wrong == "" && len(errs) > 0:
			t.Errorf("%s: %v", text, errs)
		case wrong != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), wrong)):
			t.Errorf("%s: %v", text, errs)
		case wrong != "" && errs[0].Location.Row != 2+strings.Count(text, "\n"):
			t.Errorf("%s: line %d", text, errs[0].Location.Row)
		}
	}
}
