package doctor

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/postern-auth/postern/server"
)

// The bits of a file's mode that let everybody in.
const (
	othersRead  fs.FileMode = 0o004
	othersWrite fs.FileMode = 0o002
	othersEnter fs.FileMode = 0o001
	sticky                  = fs.ModeSticky
)

// lookAtFiles looks who else on this machine can read secrets, or write what decides.
func (x *examination) lookAtFiles() {
	if runtime.GOOS == "windows" || x.Config == nil {
		x.skip("files", "not looked at")
		return
	}
	before, n := len(x.found), 0
	config, _ := filepath.Abs(x.File)
	for _, f := range append([]server.File{{Field: "the configuration", Path: config}}, x.Config.Files(filepath.Dir(config))...) {
		info, err := os.Stat(f.Path)
		if err != nil {
			if f.Secret {
				x.problem("files", fmt.Sprintf("%s: %s cannot be read", f.Field, f.Path), "say where it is, or who may read it")
			}
			continue // what need not exist, config check has looked for
		}
		n++
		x.lookAtFile(f, info)
	}
	if len(x.found) == before {
		x.ok("files", "none of %d can be read or written by everybody that should not be", n)
	}
}

func (x *examination) lookAtFile(f server.File, info fs.FileInfo) {
	mode := info.Mode()
	switch reach := reachable(f.Path); {
	case !reach:
	case f.Secret && mode&othersRead != 0:
		x.problem("files", fmt.Sprintf("%s: everybody on this machine can read %s", f.Field, f.Path), "chmod o= "+f.Path)
	case mode&othersWrite != 0:
		x.problem("files", fmt.Sprintf("%s: everybody on this machine can change %s", f.Field, f.Path), "chmod o-w "+f.Path)
	}
	if !info.IsDir() || !reachable(f.Path) {
		if dir, err := os.Stat(filepath.Dir(f.Path)); err == nil && reachable(filepath.Dir(f.Path)) && dir.Mode()&othersWrite != 0 && dir.Mode()&sticky == 0 {
			x.problem("files", fmt.Sprintf("%s: everybody on this machine can replace %s", f.Field, f.Path), "chmod o-w "+filepath.Dir(f.Path))
		}
		return
	}
	_ = filepath.WalkDir(f.Path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be looked at is told elsewhere
		}
		if in, err := e.Info(); err == nil && name != f.Path && in.Mode()&othersWrite != 0 && in.Mode()&fs.ModeSymlink == 0 {
			x.problem("files", fmt.Sprintf("%s: everybody on this machine can change %s", f.Field, name), "chmod -R o-w "+f.Path)
			return fs.SkipAll
		}
		return nil
	})
}

// reachable reports whether everybody can come as far as the file: through a directory
// that only its owner may enter, nobody else does, whatever the file says.
func reachable(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&othersEnter == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
