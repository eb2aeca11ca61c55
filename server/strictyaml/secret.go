package strictyaml

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/regular"
)

const maxSecretSize = 64 << 10

func readSecret(name string) ([]byte, error) { return regular.ReadFile(name, maxSecretSize) }

func defaultOptions() options {
	return options{maxSize: defaultMaxSize, env: os.LookupEnv, file: readSecret}
}

const secretForm = "a secret is a reference, ${file:/path} or ${env:NAME}"

var (
	reference = regexp.MustCompile(`^\$\{(file|env):([^{}]*)\}$`)
	envName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// unreadable stands for a secret that is wrong, so that no check calls it missing
// as well. It never leaves this package, because an error leaves nothing.
var unreadable = policy.NewSecret(strings.Repeat("unreadable ", 8))

// secret resolves a reference. No message says what stands there unless it is a
// reference, and none what it resolves to.
func (d *decoder) secret(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.ValueOf(unreadable))
	m := reference.FindStringSubmatch(n.Value)
	switch {
	case n.Kind != yaml.ScalarNode || m == nil:
		d.fail(n, path, "a secret cannot stand in this file", "put it into a file or the environment and write ${file:/path} or ${env:NAME}")
		return
	case m[1] == "file" && strings.TrimSpace(m[2]) == "":
		d.fail(n, path, secretForm, "the path is missing")
		return
	case m[1] == "env" && !envName.MatchString(m[2]):
		d.fail(n, path, secretForm, "a variable's name has letters, digits and _")
		return
	}
	d.unmask(n)
	text, problem := d.resolve(m[1], m[2])
	if problem != "" {
		d.fail(n, path, problem, "")
		return
	}
	v.Set(reflect.ValueOf(policy.NewSecret(text)))
	if d.references != nil {
		d.references[path] = n.Value
	}
}

// resolve returns the secret's text, or what is wrong.
func (d *decoder) resolve(kind, name string) (text, problem string) {
	if kind == "env" {
		text, ok := d.env(name)
		switch {
		case !ok:
			return "", fmt.Sprintf("the environment variable %s is not set", name)
		case strings.TrimSpace(text) == "":
			return "", fmt.Sprintf("the environment variable %s is empty", name)
		}
		return strings.TrimRight(text, "\r\n"), ""
	}
	raw, err := d.file(d.absolute(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Sprintf("the file %s does not exist", name)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Sprintf("the file %s may not be read", name)
	case err != nil:
		return "", fmt.Sprintf("the file %s cannot be read: %s", name, cause(err))
	case strings.TrimSpace(string(raw)) == "":
		return "", fmt.Sprintf("the file %s is empty", name)
	}
	return strings.TrimRight(string(raw), "\r\n"), ""
}

// absolute resolves a relative path against the base, if there is one.
func (d *decoder) absolute(path string) string {
	if d.base == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.base, path)
}

// secretShapes are texts that are secrets wherever they stand: private keys,
// keys of ours, which have any prefix, signed tokens, and passwords within URLs.
var secretShapes = regexp.MustCompile(`PRIVATE KEY-----` +
	`|\bpst_[0-9A-Za-z_]{60,}` +
	`|[a-z0-9]_(?:key|pat|ses)(?:_[a-z][a-z0-9]{0,15})?_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}` +
	`|\beyJ[\w-]+\.[\w-]+\.[\w-]*` +
	`|://[^/\s@]*:[^/\s@]+@`)

func looksSecret(s string) bool {
	for _, sign := range [...]string{"PRIVATE KEY", "pst_", "_key_", "_pat_", "_ses_", "eyJ", "://"} {
		if strings.Contains(s, sign) {
			return secretShapes.MatchString(s)
		}
	}
	return false
}

// cause drops the path, which the message has already.
func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// unmask lets a reference be printed.
func (d *decoder) unmask(n *yaml.Node) {
	for i := len(d.masks) - 1; i >= 0; i-- {
		if m := d.masks[i]; m.line == n.Line && m.column == n.Column {
			d.masks = slices.Delete(d.masks, i, i+1)
			return
		}
	}
}

var secretHolders sync.Map // reflect.Type to bool

// holdsSecret reports whether values of the type have secrets in them, and a
// literal in their place may therefore be one.
func holdsSecret(t reflect.Type) bool {
	if known, ok := secretHolders.Load(t); ok {
		return known.(bool)
	}
	found := findSecret(t, map[reflect.Type]bool{})
	secretHolders.Store(t, found)
	return found
}

func findSecret(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == secretType || seen[t] {
		return t == secretType
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return findSecret(t.Elem(), seen)
	case reflect.Struct:
		return slices.ContainsFunc(fieldsOf(t), func(f field) bool { return findSecret(t.FieldByIndex(f.index).Type, seen) })
	}
	return false
}
