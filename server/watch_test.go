package server

import (
	"testing"

	"github.com/fsnotify/fsnotify"
)

// A log that grows in the directory of the configuration is no reason to read
// everything again, and again; a file that takes the place of another may be.
func TestConcerns(t *testing.T) {
	t.Parallel()
	v := surveyed{files: []string{"/etc/postern/postern.yaml", "/etc/postern/policy"}, policy: []string{"/etc/postern/policy", "/etc/postern/policy/lib"}}
	for _, c := range []struct {
		name string
		op   fsnotify.Op
		want bool
	}{
		{"/etc/postern/postern.yaml", fsnotify.Write, true},
		{"/etc/postern/postern.yaml", fsnotify.Chmod, false},
		{"/etc/postern/postern.log", fsnotify.Write, false},
		{"/etc/postern/postern.log", fsnotify.Create, true},
		{"/etc/postern/..data", fsnotify.Create, true},
		{"/etc/postern/policy", fsnotify.Rename, true},
		{"/etc/postern/policy/new.rego", fsnotify.Write, true},
		{"/etc/postern/policy/lib/new.rego", fsnotify.Create | fsnotify.Write, true},
		{"/etc/postern/policy/lib/new.rego", fsnotify.Remove, true},
	} {
		if got := v.concerns(fsnotify.Event{Name: c.name, Op: c.op}); got != c.want {
			t.Errorf("%s %s: %v", c.op, c.name, got)
		}
	}
}
