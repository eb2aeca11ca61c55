package author

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"

	"github.com/postern-auth/postern/policy/rego"
)

// Format writes Rego as `opa fmt` does. The error is rego.Problems if it does not
// parse.
func Format(name string, text []byte, config rego.Config) ([]byte, error) {
	version := versionOf(config)
	out, err := format.SourceWithOpts(name, text, format.Opts{
		RegoVersion:   version,
		ParserOptions: &ast.ParserOptions{RegoVersion: version},
	})
	if err != nil {
		return nil, rego.ProblemsOf(err)
	}
	return out, nil
}
