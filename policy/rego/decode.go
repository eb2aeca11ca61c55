package rego

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// maxDocumentDepth bounds the nesting of JSON that comes with a request: bodies,
// claims, metadata and context.
const maxDocumentDepth = 64

var errTooDeep = errors.New("the document is nested too deeply")

// decodeJSON reads one JSON text. Numbers keep their digits, because 2^53 and
// 2^53+1 are different ids. A name that stands twice in an object is an error,
// and so is anything after the text: such a document has two readings (RFC 8259
// section 4).
func decodeJSON(text []byte, depth int) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decodeNext(d, depth)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is more than one JSON text")
	}
	return v, nil
}

func decodeNext(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	opener, nested := token.(json.Delim)
	switch {
	case !nested:
		return token, nil
	case depth <= 0:
		return nil, errTooDeep
	case opener == '{':
		return decodeObject(d, depth-1)
	default:
		return decodeArray(d, depth-1)
	}
}

func decodeObject(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		key := name.(string) // the decoder lets nothing else stand here
		if _, twice := object[key]; twice {
			return nil, fmt.Errorf("the name %.64q stands twice in one object", key)
		}
		if object[key], err = decodeNext(d, depth); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return object, err
}

func decodeArray(d *json.Decoder, depth int) (any, error) {
	array := []any{}
	for d.More() {
		v, err := decodeNext(d, depth)
		if err != nil {
			return nil, err
		}
		array = append(array, v)
	}
	_, err := d.Token()
	return array, err
}

// decodeYAML reads one YAML document as JSON values. Aliases are refused: a few
// bytes of them can stand for gigabytes.
func decodeYAML(text []byte, depth int) (any, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty")
	case err != nil:
		return nil, err
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one YAML document")
	}
	return fromYAML(doc.Content[0], depth)
}

func fromYAML(n *yaml.Node, depth int) (any, error) {
	if depth < 0 {
		return nil, fmt.Errorf("line %d: %w", n.Line, errTooDeep)
	}
	switch n.Kind {
	case yaml.MappingNode:
		object := make(map[string]any, len(n.Content)/2)
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
				return nil, fmt.Errorf("line %d: a key must be a plain string", key.Line)
			}
			if _, twice := object[key.Value]; twice {
				return nil, fmt.Errorf("line %d: the key %.64q stands twice", key.Line, key.Value)
			}
			v, err := fromYAML(n.Content[i+1], depth-1)
			if err != nil {
				return nil, err
			}
			object[key.Value] = v
		}
		return object, nil
	case yaml.SequenceNode:
		array := make([]any, len(n.Content))
		for i, e := range n.Content {
			v, err := fromYAML(e, depth-1)
			if err != nil {
				return nil, err
			}
			array[i] = v
		}
		return array, nil
	case yaml.ScalarNode:
		return yamlScalar(n)
	}
	return nil, fmt.Errorf("line %d: aliases are not supported", n.Line)
}

func yamlScalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return n.Value, nil
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!int", "!!float":
		// JSON numbers keep their digits; the other spellings of YAML (0x10, 1_000)
		// go through the number that they stand for.
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value), nil
		}
		var i int64
		if err := n.Decode(&i); err == nil {
			return json.Number(fmt.Sprint(i)), nil
		}
	}
	return nil, fmt.Errorf("line %d: %.64q is no JSON value", n.Line, n.Value)
}

// offsetOf returns where in the text a JSON error is, if it says so.
func offsetOf(err error) (int64, bool) {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return e.Offset, true
	}
	return 0, false
}
