package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-auth/postern/server/store/pgtest"
)

// The commands of the store on PostgreSQL, the real one. Those on SQLite are in
// testdata/store.txtar.
func TestStoreOnPostgres(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"dsn":    pgtest.Database(t),
		"pepper": "of course this is not a secret, as it stands in a test",
		"postern.yaml": `version: 1
api_keys: {pepper: "${file:pepper}"}
store: {driver: postgres, dsn: "${file:dsn}"}
policy: {path: .}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		root := newRoot()
		root.SetArgs(append(args, "-c", filepath.Join(dir, "postern.yaml")))
		root.SetOut(&out)
		root.SetErr(&out)
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	for _, tt := range []struct{ command, out, err string }{
		{"store check", "", "there is no store in this database"},
		{"store migrate", "the store has schema ", ""},
		{"store bootstrap -q", "pst_key_", ""},
		{"store bootstrap", "", "there is an admin key already"},
		{"store backup copy.db", "", "pg_dump"},
		{"store restore copy.db", "", "pg_dump"},
		{"store restore", "all replicas will read everything again\n", ""},
		{"store check", "engine         PostgreSQL ", ""},
	} {
		out, err := run(strings.Fields(tt.command)...)
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) || !strings.HasPrefix(out, tt.out) {
			t.Errorf("%s: %q %v", tt.command, out, err)
		}
	}
}
