package strictyaml

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// Documentation returns what is to be said of a struct's field, or of the struct
// itself if field is empty. The field is its name in Go.
type Documentation func(t reflect.Type, field string) string

// Schema returns the JSON Schema (draft 2020-12) of the files that decode into
// values like the one given, which also gives the defaults.
func Schema(id, title string, value any, doc Documentation) []byte {
	s := schema{doc: doc, defs: map[string]any{}}
	v := reflect.Indirect(reflect.ValueOf(value))
	root := s.structure(v)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = id
	root["title"] = title
	if len(s.defs) > 0 {
		root["$defs"] = s.defs
	}
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // only maps, slices and strings are in there
	}
	return append(out, '\n')
}

type schema struct {
	doc  Documentation
	defs map[string]any
}

type object = map[string]any

// of returns the schema of values like v. Structs with a name are defined once.
func (s *schema) of(v reflect.Value, scalar bool) object {
	t := v.Type()
	if o := notation(t); o != nil {
		return o
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(fresh(t.Elem()), scalar)
	case reflect.Struct:
		return s.reference(v)
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(fresh(t.Elem()), false)}
	case reflect.Slice:
		item := s.of(fresh(t.Elem()), false)
		list := object{"type": "array", "items": item}
		if scalar {
			return object{"anyOf": []any{item, list}}
		}
		return list
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Interface:
		return object{}
	}
	return object{"type": "integer"}
}

// notation returns the schema of types that are written as texts.
func notation(t reflect.Type) object {
	pattern := func(p string) object { return object{"type": "string", "pattern": p} }
	switch t {
	case secretType:
		return pattern(`^\$\{(file|env):[^{}]+\}$`)
	case durationType:
		return pattern(`^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`)
	case sizeType:
		return pattern(`^[0-9]+(_[0-9]+)*(B|KiB|MiB|GiB)$`)
	case timeType:
		return object{"type": "string", "format": "date-time"}
	}
	switch {
	case t.Kind() == reflect.String && t.Implements(enumType):
		return object{"type": "string", "enum": reflect.Zero(t).Interface().(Enum).Values()}
	case t == prefixType, t == addrType, t == addrPortType, reflect.PointerTo(t).Implements(textUnmarshaler):
		return object{"type": "string"}
	}
	return nil
}

// reference defines the struct and returns a reference to it.
func (s *schema) reference(v reflect.Value) object {
	name := defName(v.Type())
	if _, ok := s.defs[name]; !ok {
		s.defs[name] = nil
		s.defs[name] = s.structure(v)
	}
	return object{"$ref": "#/$defs/" + name}
}

func defName(t reflect.Type) string {
	path := t.PkgPath()
	return strings.ToLower(path[strings.LastIndexByte(path, '/')+1:] + "." + t.Name())
}

func (s *schema) structure(v reflect.Value) object {
	t := v.Type()
	properties, required := object{}, []string{}
	for _, f := range fieldsOf(t) {
		fv := v.FieldByIndex(f.index)
		p := s.of(fv, f.scalar)
		owner := t
		if n := len(f.index); n > 1 {
			owner = t.FieldByIndex(f.index[:n-1]).Type
		}
		if text := s.doc(owner, t.FieldByIndex(f.index).Name); text != "" {
			p["description"] = text
		}
		if def, ok := defaultOf(fv); ok && !f.required {
			p["default"] = def
		}
		if f.required {
			required = append(required, f.name)
		}
		properties[f.name] = p
	}
	o := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		o["required"] = required
	}
	if text := s.doc(t, ""); text != "" {
		o["description"] = text
	}
	return o
}

// defaultOf returns what a field holds if the file does not name it, where that
// says something.
func defaultOf(v reflect.Value) (any, bool) {
	switch t := v.Interface().(type) {
	case time.Duration:
		return shortDuration(t), t != 0
	case Size:
		return t.String(), t != 0
	}
	switch v.Kind() {
	case reflect.Bool:
		return v.Bool(), true
	case reflect.String:
		return v.String(), v.Len() > 0
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int(), v.Int() != 0
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return v.Uint(), v.Uint() != 0
	case reflect.Float32, reflect.Float64:
		return v.Float(), v.Float() != 0
	}
	return nil, false
}

// fresh returns a new value as Decode would fill it.
func fresh(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	setDefaults(p)
	return p.Elem()
}
