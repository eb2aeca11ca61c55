package server

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/postern-auth/postern/server/strictyaml"
)

// File is a file or directory that the configuration names.
type File struct {
	// Field is where it is named, for example tls.key.
	Field string
	Path  string
	// Secret says that whoever reads it can do what only Postern should. All of them
	// decide who may call, so that nobody else may write to any.
	Secret bool
}

// The names of fields that hold files, and of those that hold keys.
var (
	fileFields = []string{
		"cert", "key", "file", "path", "client_ca", "ca_file", "jwks_file", "token_file",
		"cert_file", "key_file", "client_cert_file", "client_key_file", "roles", "users",
	}
	keyFields = []string{"key", "key_file", "client_key_file", "token_file"}
)

// Files are all that it names, sorted by field; relative paths of secrets are of the
// directory base.
func (c *Config) Files(base string) []File {
	var all []File
	for field, reference := range c.references {
		path, isFile := strings.CutPrefix(strings.TrimSuffix(reference, "}"), "${file:")
		if !isFile || path == reference {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(base, path)
		}
		all = append(all, File{field, path, true})
	}
	walkFiles(reflect.ValueOf(c).Elem(), "", &all)
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Field, b.Field) })
	return all
}

// walkFiles finds the fields that hold paths.
func walkFiles(v reflect.Value, at string, all *[]File) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walkFiles(v.Elem(), at, all)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walkFiles(v.Index(i), at, all)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, options, tagged := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			field := v.Field(i)
			switch inline := tagged && strings.Contains(options, "inline"); {
			case !v.Type().Field(i).IsExported() || name == "" && !inline || name == "-":
			case field.Kind() == reflect.String:
				isPath := field.Type() == reflect.TypeFor[strictyaml.Path]()
				if path := field.String(); path != "" && (isPath || slices.Contains(fileFields, name) && filepath.IsAbs(path)) {
					*all = append(*all, File{under(at, name), path, slices.Contains(keyFields, name)})
				}
			default:
				walkFiles(field, under(at, name), all)
			}
		}
	}
}

func under(at, name string) string { return strings.Trim(at+"."+name, ".") }
