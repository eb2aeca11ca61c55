package server

import (
	_ "embed"
	"slices"
)

// config_schema.json is made from the types of Config, the defaults and the
// comments on the fields: go test ./server -run TestSchema -update writes it, and
// the same test fails when it is not up to date. Comments are not in the binary,
// so the result has to be.
//
//go:embed config_schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of the configuration file, with
// what every field means, for editors and for people.
func Schema() []byte { return slices.Clone(schema) }
