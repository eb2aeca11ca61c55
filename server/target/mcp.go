package target

import (
	"encoding/base64"
	"regexp"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
)

// SchemaMember is the member of `_meta` by which an MCP client says which schema of a
// tool it knows: the SHA-256 in lower-case hex of the schema as JSON with its members in
// the order of their names and without spaces. A server that changes what a tool takes
// after somebody has looked at it is noticed by that.
const SchemaMember = "postern.dev/schema-sha256"

const methodCall = "tools/call"

// mcp reads one message of the Model Context Protocol, which is JSON-RPC 2.0 with less
// freedom: ids are texts or whole numbers, params an object, and there are no batches.
// A request without a body, such as GET for the stream of events, calls nothing.
func (x *reading) mcp() error {
	if !x.body.Exists() {
		return nil
	}
	if x.body.Kind() == jose.Array {
		return invalid("several messages in one request")
	}
	o := objectOf(x.body, "the message", messageNames)
	if !x.body.Get("jsonrpc").Is("2.0") {
		o.fail("is not one of JSON-RPC 2.0")
	}
	hasID := o.id()
	method := x.body.Get("method")
	result, problem := x.body.Get("result").Exists(), x.body.Get("error").Exists()
	switch {
	case !method.Exists() && (!hasID || result == problem):
		o.fail("is neither a request nor a response")
	case method.Exists() && (result || problem):
		o.fail("is a request and a response")
	case method.Exists():
		x.target.Method = o.text("method")
		if o.err == nil && x.target.Method == "" {
			o.fail("has no method")
		}
	}
	params := x.body.Get("params")
	if params.Exists() && params.Kind() != jose.Object {
		o.fail("has params that are not an object")
	}
	if o.err == nil && alike(x.target.Method, methodCall) {
		x.call(o, params, hasID)
	}
	if o.err != nil {
		return o.err
	}
	return x.mirrored()
}

var wholeNumber = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,18})$`)

// id checks the id of a message, and reports whether it has one.
func (o *object) id() bool {
	v := o.value.Get("id")
	number, _ := v.Number()
	text, isText := v.Text()
	switch {
	case !v.Exists():
		return false
	case isText && len(text) <= maxName:
	case wholeNumber.MatchString(string(number)):
	default:
		o.fail("has an id that is neither a text nor a whole number")
	}
	return true
}

// call reads the call of a tool.
func (x *reading) call(message *object, params jose.Value, hasID bool) {
	if x.target.Method != methodCall || !hasID {
		message.fail("calls a tool in a way that a server may read as another")
		return
	}
	o := objectOf(params, "params", callNames)
	call := policy.ToolCall{Name: o.text("name")}
	if o.err == nil && call.Name == "" {
		o.fail("names no tool")
	}
	if arguments := params.Get("arguments"); arguments.Exists() {
		if arguments.Kind() != jose.Object {
			o.fail("has arguments that are not an object")
		}
		call.Arguments = arguments.Any()
	}
	if meta := params.Get("_meta"); meta.Exists() {
		m := objectOf(meta, "_meta", schemaNames)
		call.Schema = m.text(SchemaMember)
		m.keep(o)
	}
	o.keep(message)
	x.target.Tools = append(x.target.Tools, call)
}

// mirrored holds the fields that repeat the message for gateways against it: whoever
// goes by them must not be told something else.
func (x *reading) mirrored() error {
	if err := x.mirrors("mcp-method", x.target.Method); err != nil || len(x.target.Tools) == 0 {
		return err
	}
	return x.mirrors("mcp-name", x.target.Tools[0].Name)
}

func (x *reading) mirrors(field, what string) error {
	value, said, err := x.field(field)
	if err == nil && said && decoded(value) != what {
		return invalid("the field " + field + " says something else than the message")
	}
	return err
}

// decoded reads a field value that had to be wrapped, because it is not ASCII.
func decoded(value string) string {
	inner, wrapped := strings.CutPrefix(value, "=?base64?")
	inner, closed := strings.CutSuffix(inner, "?=")
	if text, err := base64.StdEncoding.Strict().DecodeString(inner); wrapped && closed && err == nil {
		return string(text)
	}
	return value
}
