package rego

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/postern-auth/postern/policy/lib"
	"github.com/postern-auth/postern/server/regular"
)

// Bundle is a policy as it was read: parsed, not yet compiled.
type Bundle struct {
	// Revision is a hash of everything that was read, the library included: two
	// bundles with one revision decide alike under one Config.
	Revision string
	// Files are the names of what was read, in order.
	Files []string

	modules map[string]*ast.Module
	data    map[string]any
}

// Data returns what the data files say at a path of names; nil if nothing. It must not
// be changed.
func (b *Bundle) Data(path ...string) any {
	var at any = b.data
	for _, name := range path {
		m, _ := at.(map[string]any)
		at = m[name]
	}
	return at
}

// Load reads the policy directory. The error is Problems if the files are
// wrong, and wraps ErrNoPolicy if there are none. Symbolic links are followed
// inside the directory and refused where they leave it.
func Load(dir string, config Config) (*Bundle, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the policy directory: %w", err)
	}
	defer root.Close()
	return LoadFS(regular.Root(root), config)
}

// LoadFS reads a policy from any file system, such as the embedded lib.Sample.
func LoadFS(fsys fs.FS, config Config) (*Bundle, error) {
	l := loader{
		fsys: fsys, config: config.withDefaults(), hash: sha256.New(),
		bundle: &Bundle{modules: map[string]*ast.Module{}, data: map[string]any{}},
	}
	if v := config.RegoVersion; v != nil && *v != 0 && *v != 1 {
		return nil, fmt.Errorf("rego_version is 0 or 1, not %d", *v)
	}
	if err := fs.WalkDir(fsys, ".", l.visit); err != nil {
		return nil, fmt.Errorf("read the policy directory: %w", err)
	}
	if len(l.bundle.Files) == 0 && len(l.problems) == 0 {
		return nil, fmt.Errorf("%w: there is no *.rego, *.json or *.yaml file in the policy directory", ErrNoPolicy)
	}
	if err := l.addLibrary(); err != nil {
		return nil, err
	}
	if err := l.problems.orNil(); err != nil {
		return nil, err
	}
	for _, table := range lib.Tables {
		if _, ok := l.bundle.data[table]; !ok {
			l.bundle.data[table] = map[string]any{}
		}
	}
	l.bundle.Revision = hex.EncodeToString(l.hash.Sum(nil)[:6])
	return l.bundle, nil
}

// loader reads one directory. It collects problems instead of stopping at the
// first, but stops at once at a limit.
type loader struct {
	fsys     fs.FS
	config   Config
	bundle   *Bundle
	hash     hash.Hash
	bytes    int64
	problems Problems
}

// errLimit is wrapped by errors that stop the walk.
var errLimit = errors.New("the policy is over a limit")

func (l *loader) visit(name string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	hidden := strings.HasPrefix(entry.Name(), ".") && name != "."
	switch {
	case entry.IsDir() && hidden:
		return fs.SkipDir
	case entry.IsDir() && strings.Count(name, "/") >= l.config.Limits.Depth:
		return fmt.Errorf("%w: %s is nested more than %d directories deep", errLimit, name, l.config.Limits.Depth)
	case entry.IsDir() || hidden || isTest(name):
		return nil
	case entry.Type()&fs.ModeSymlink != 0 && !l.isLinkToFile(name):
		l.problem(name, 0, 0, "is a symbolic link to a directory, to nothing or out of the policy directory")
		return nil
	case kindOf(name) == fileOther:
		return nil
	}
	text, err := l.read(name)
	if err != nil {
		if errors.Is(err, errLimit) {
			return err
		}
		l.problem(name, 0, 0, err.Error())
		return nil
	}
	l.bundle.Files = append(l.bundle.Files, name)
	writeSized(l.hash, []byte(name))
	writeSized(l.hash, text)
	if kindOf(name) == fileRego {
		l.addModule(name, text, l.version())
		return nil
	}
	l.addData(name, text)
	return nil
}

// isLinkToFile also reports false where the link leaves the directory, which is
// for os.Root to find out.
func (l *loader) isLinkToFile(name string) bool {
	info, err := fs.Stat(l.fsys, name)
	return err == nil && info.Mode().IsRegular()
}

func (l *loader) read(name string) ([]byte, error) {
	if len(l.bundle.Files) >= l.config.Limits.Files {
		return nil, fmt.Errorf("%w: more than %d files", errLimit, l.config.Limits.Files)
	}
	text, err := regular.ReadFileFS(l.fsys, name, l.config.Limits.Bytes-l.bytes)
	switch {
	case errors.Is(err, regular.ErrTooLarge):
		return nil, fmt.Errorf("%w: more than %d bytes", errLimit, l.config.Limits.Bytes)
	case errors.Is(err, regular.ErrNotRegular):
		return nil, regular.ErrNotRegular
	case err != nil:
		return nil, fmt.Errorf("cannot be read, or leads out of the policy directory: %w", err)
	}
	l.bytes += int64(len(text))
	return text, nil
}

type fileKind int

const (
	fileOther fileKind = iota
	fileRego
	fileJSON
	fileYAML
)

func kindOf(name string) fileKind {
	switch path.Ext(name) {
	case ".rego":
		return fileRego
	case ".json":
		return fileJSON
	case ".yaml", ".yml":
		return fileYAML
	}
	return fileOther
}

func isTest(name string) bool {
	return strings.HasSuffix(strings.TrimSuffix(name, path.Ext(name)), "_test")
}

func (l *loader) version() ast.RegoVersion {
	if v := l.config.RegoVersion; v != nil && *v == 0 {
		return ast.RegoV0
	}
	return ast.RegoV1
}

func (l *loader) addModule(name string, text []byte, version ast.RegoVersion) {
	module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: version})
	switch {
	case err != nil:
		hint := ""
		if version == ast.RegoV1 && parsesAsV0(name, text) {
			hint = " (this is Rego v0: set rego_version: 0, or rewrite it with `opa fmt --v0-v1`)"
		}
		l.problems = append(l.problems, problemsOf(err, hint)...)
	case module == nil:
		l.problem(name, 1, 1, "the file holds no Rego")
	case isReserved(module.Package.Path):
		l.problem(name, module.Package.Location.Row, module.Package.Location.Col,
			"the package postern.lib belongs to Postern; choose another name")
	default:
		l.bundle.modules[name] = module
	}
}

func parsesAsV0(name string, text []byte) bool {
	m, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV0})
	return err == nil && m != nil
}

func isReserved(p ast.Ref) bool {
	return len(p) >= 3 && p[1].Value.Compare(ast.String("postern")) == 0 && p[2].Value.Compare(ast.String("lib")) == 0
}

// addData merges a data file below its directory, as `opa run` does.
func (l *loader) addData(name string, text []byte) {
	decode := decodeJSON
	if kindOf(name) == fileYAML {
		decode = decodeYAML
	}
	v, err := decode(text, l.config.Limits.Depth)
	if err != nil {
		line, message := lineOf(err, text)
		l.problem(name, line, 0, message)
		return
	}
	object, ok := v.(map[string]any)
	if !ok {
		l.problem(name, 1, 0, "data must be an object at the top")
		return
	}
	at := l.bundle.data
	if dir := path.Dir(name); dir != "." {
		for step := range strings.SplitSeq(dir, "/") {
			below, ok := at[step].(map[string]any)
			if !ok {
				if at[step] != nil {
					l.problem(name, 0, 0, fmt.Sprintf("the directory %q and a data file both define it", step))
					return
				}
				below = map[string]any{}
				at[step] = below
			}
			at = below
		}
	}
	if conflict := merge(at, object, nil); conflict != nil {
		l.problem(name, 0, 0, fmt.Sprintf("%s is already defined by another file", strings.Join(conflict, ".")))
	}
}

// merge puts src into dst and returns the path of the first value that both
// define.
func merge(dst, src map[string]any, at []string) []string {
	for _, key := range sortedKeys(src) {
		old, defined := dst[key]
		if !defined {
			dst[key] = src[key]
			continue
		}
		a, aok := old.(map[string]any)
		b, bok := src[key].(map[string]any)
		path := append(at, key)
		if !aok || !bok {
			return path
		}
		if conflict := merge(a, b, path); conflict != nil {
			return conflict
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// libraryPrefix begins the names of the library's files in messages.
const libraryPrefix = "postern.lib/"

// addLibrary adds the Rego that ships with Postern, and the ready entry point
// where the user wrote no Rego at all.
func (l *loader) addLibrary() error {
	files, err := library()
	if err != nil {
		return err
	}
	withEntrypoint := len(l.bundle.modules) == 0
	forAdmin := strings.HasPrefix(l.config.Entrypoint, "data.postern.admin.")
	for _, f := range files {
		if f.name == lib.Entrypoint && !withEntrypoint || f.name == lib.Admin && !forAdmin {
			continue
		}
		writeSized(l.hash, f.text)
		l.bundle.modules[libraryPrefix+f.name] = f.module
	}
	return nil
}

// libraryFile is a file of the library, parsed. Compile works on copies.
type libraryFile struct {
	name   string
	text   []byte
	module *ast.Module
}

// library reads the library, once.
var library = sync.OnceValues(func() (files []libraryFile, err error) {
	err = fs.WalkDir(lib.Modules, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || kindOf(name) != fileRego || isTest(name) {
			return err
		}
		text, err := fs.ReadFile(lib.Modules, name)
		if err != nil {
			return err
		}
		module, err := ast.ParseModuleWithOpts(libraryPrefix+name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1})
		files = append(files, libraryFile{name, text, module})
		return err
	})
	return files, err
})

func (l *loader) problem(file string, line, column int, text string) {
	l.problems = append(l.problems, Problem{File: file, Line: line, Column: column, Text: text})
}

// writeSized hashes a length before the text, so that no two lists of texts hash
// alike.
func writeSized(h hash.Hash, text []byte) {
	_, _ = h.Write(strconv.AppendInt(nil, int64(len(text)), 10))
	_, _ = h.Write([]byte{':'})
	_, _ = h.Write(text)
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)

// lineOf finds the line of a data error.
func lineOf(err error, text []byte) (int, string) {
	message := err.Error()
	if at, ok := offsetOf(err); ok && at <= int64(len(text)) {
		return 1 + strings.Count(string(text[:at]), "\n"), message
	}
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ := strconv.Atoi(m[1])
		return line, message[len(m[0]):]
	}
	return 0, strings.TrimPrefix(message, "yaml: ")
}
