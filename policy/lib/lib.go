// Package lib is the Rego that ships with Postern, as files.
//
// Modules are always there, under data.postern.lib: a policy can call them, and
// must not define anything in that package itself. One of them, Entrypoint, is
// loaded only for users who write no Rego at all: it makes the RBAC of
// data.postern.lib.rbac the decision, so that a directory of tables is a policy.
//
// The tests of these modules are the *_test.rego files beside them; package
// policy/rego runs them.
package lib

import (
	"embed"
	"io/fs"
)

// Modules are the files of the library.
//
//go:embed *.rego
var Modules embed.FS

// Entrypoint is the file in Modules that decides where the user has no Rego.
const Entrypoint = "authz.rego"

// Admin is the file in Modules that decides who may use the admin API. It is loaded
// for that alone: nothing else can refer to it.
const Admin = "admin.rego"

// RBAC is the rule that decides by the tables named Tables; the tables of whoever
// asks it are checked at load.
const RBAC = "data.postern.lib.rbac.decision"

// Tables are the names of the tables of RBAC, below data. Package policy/rego
// defines those that a policy directory leaves out as empty objects, so that a
// policy can refer to all of them.
var Tables = [...]string{"roles", "permissions", "routes", "scopes", "deny"}

//go:embed sample
var sample embed.FS

// Sample is the policy of `postern serve --dev`: the tables of a small shop, and
// a few lines of Rego on top.
var Sample = func() fs.FS {
	sub, err := fs.Sub(sample, "sample")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}()
