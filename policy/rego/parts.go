package rego

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/postern-auth/postern/policy/lib"
)

// Part is what one of several sources gives to a policy: it was read, bounded and,
// where that is asked for, verified elsewhere.
type Part struct {
	// Name goes before the names of the files where there are several parts; unique.
	Name string
	// Digest stands for all that the part holds.
	Digest []byte
	// Modules are the parsed files by name. They are not changed.
	Modules map[string]*ast.Module
	// Data is the part's share of data. It is taken over: the caller must not use
	// it again.
	Data map[string]any
}

// NewBundle makes a policy of parts, to be compiled like one that Load read. Label
// is what people call this revision; the Revision is the label and a hash of the
// parts and the library, or the hash alone. The error is Problems if the parts
// contradict each other or use what belongs to Postern.
func NewBundle(label string, parts []Part, config Config) (*Bundle, error) {
	l := loader{
		config: config.withDefaults(), hash: sha256.New(),
		bundle: &Bundle{modules: map[string]*ast.Module{}, data: map[string]any{}},
	}
	for _, p := range parts {
		writeSized(l.hash, []byte(p.Name))
		writeSized(l.hash, p.Digest)
		l.addPart(p, len(parts) > 1)
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
	if label != "" {
		l.bundle.Revision = label + "+" + l.bundle.Revision
	}
	return l.bundle, nil
}

func (l *loader) addPart(p Part, prefix bool) {
	for _, file := range sortedKeys(p.Modules) {
		module, name := p.Modules[file], file
		if prefix {
			name = p.Name + "/" + file
		}
		switch {
		case isTest(file):
			continue
		case strings.HasPrefix(name, libraryPrefix), isReserved(module.Package.Path):
			l.problem(name, module.Package.Location.Row, module.Package.Location.Col,
				"the package postern.lib belongs to Postern; choose another name")
			continue
		}
		l.bundle.modules[name] = module
		l.bundle.Files = append(l.bundle.Files, name)
	}
	if len(l.bundle.data) == 0 {
		maps.Copy(l.bundle.data, p.Data)
		return
	}
	if conflict := merge(l.bundle.data, p.Data, nil); conflict != nil {
		l.problem(p.Name, 0, 0, fmt.Sprintf("%s is already defined by another bundle", strings.Join(conflict, ".")))
	}
}

// CheckData reads a data file as Load does and says what is wrong with it: a name
// that stands twice in an object, values nested deeper than depth, YAML aliases.
// What is neither JSON nor YAML by its name is not looked at. The error is Problems.
func CheckData(name string, text []byte, depth int) error {
	decode := decodeJSON
	switch kindOf(name) {
	case fileJSON:
		if hasOneReading(text, depth) {
			return nil
		}
	case fileYAML:
		decode = decodeYAML
	default:
		return nil
	}
	if _, err := decode(text, depth); err != nil {
		line, message := lineOf(err, text)
		return Problems{{File: name, Line: line, Text: message}}
	}
	return nil
}
