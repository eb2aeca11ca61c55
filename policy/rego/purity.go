package rego

// Purity says what the answer of a builtin function may depend on besides its
// arguments, and so how far a decision that calls it may be reused. The zero
// value forbids reuse.
type Purity uint8

const (
	// Impure: on something outside (network, randomness, process, a clock that
	// cannot be pinned), or nobody knows. The decision is never cached.
	Impure Purity = iota
	// TimeBound: on the time of the evaluation, which the engine pins to the
	// second. The decision may be reused within that second.
	TimeBound
	// Pure: on nothing else. Equal arguments give equal answers for as long as
	// the process lives.
	Pure
)

// purityOf classifies a builtin by name. Own are the builtins that Postern
// registers besides OPA's; a declaration can make one of OPA's names less pure,
// never purer. Whatever is in no list is Impure. The second result says why a
// builtin is not Pure, as the end of a sentence that began "calls <name>: ".
func purityOf(name string, own map[string]Purity) (Purity, string) {
	declared, isOwn := own[name]
	why, isImpure := impureBuiltins[name]
	switch {
	case isImpure:
		return Impure, why
	case isOwn && declared == Impure:
		return Impure, "it is declared impure"
	case timeBoundBuiltins[name] != "":
		return TimeBound, timeBoundBuiltins[name]
	case isOwn && declared == TimeBound:
		return TimeBound, "it is declared to depend on the time"
	case isOwn && declared == Pure, pureBuiltins[name]:
		return Pure, ""
	}
	return Impure, "nobody has said what it depends on"
}

// timeBoundBuiltins read BuiltinContext.Time and no other clock.
var timeBoundBuiltins = map[string]string{
	"time.now_ns":          "it reads the clock",
	"io.jwt.decode_verify": "it compares exp and nbf with the clock",
}

// impureBuiltins were each read in OPA's source. Not all that OPA itself flags as
// nondeterministic are here (those that only read the pinned clock are not), and
// some that it does not flag are.
var impureBuiltins = map[string]string{
	"http.send":              "the answer comes from the network",
	"net.lookup_ip_addr":     "the answer comes from the network",
	"rand.intn":              "the answer is random",
	"uuid.rfc4122":           "the answer is random",
	"io.jwt.encode_sign":     "some signatures are random",
	"opa.runtime":            "the answer is the process's configuration and environment",
	"rego.parse_module":      "it shows the parser's inner state, which OPA does not promise to keep stable",
	"trace":                  "it leaves a note in the trace of every evaluation, which a cached decision would not",
	"internal.test_case":     "it reports to OPA's test runner",
	"json.match_schema":      "a schema may refer to another one on the network",
	"json.verify_schema":     "a schema may refer to another one on the network",
	"io.jwt.encode_sign_raw": "some signatures are random",

	// Both verify against time.Now and not against the time of the evaluation
	// (x509.VerifyOptions.CurrentTime is zero); the second unless its options
	// name a time, which is not worth telling apart.
	"crypto.x509.parse_and_verify_certificates":              "it reads the system's clock, which cannot be pinned",
	"crypto.x509.parse_and_verify_certificates_with_options": "it reads the system's clock, which cannot be pinned",

	// Goes over a Go map: header names that differ only in case overwrite each
	// other in random order.
	"providers.aws.sign_req": "headers that differ only in case are signed in random order",
}

// pureBuiltins are all others, by name, so that a builtin that is new in a later
// OPA is Impure until somebody has read it. What print prints is no part of the
// decision, and the compiler drops it unless printing is switched on. The
// functions of time and crypto that are here take their instant as an argument;
// time zones are those of the process.
var pureBuiltins = nameSet(
	// Comparison, arithmetic, aggregates.
	"eq", "assign", "equal", "neq", "gt", "gte", "lt", "lte",
	"internal.member_2", "internal.member_3",
	"plus", "minus", "mul", "div", "rem", "ceil", "floor", "round", "abs",
	"bits.or", "bits.and", "bits.negate", "bits.xor", "bits.lsh", "bits.rsh",
	"count", "sum", "product", "max", "min", "any", "all", "sort",
	"numbers.range", "numbers.range_step",

	// Arrays, sets, objects, graphs.
	"array.concat", "array.flatten", "array.slice", "array.reverse",
	"and", "or", "set_diff", "intersection", "union",
	"object.union", "object.union_n", "object.remove", "object.filter", "object.get", "object.keys", "object.subset",
	"json.filter", "json.remove", "json.patch",
	"walk", "graph.reachable", "graph.reachable_paths",

	// Types.
	"to_number", "cast_object", "cast_null", "cast_boolean", "cast_string", "cast_set", "cast_array",
	"is_number", "is_string", "is_boolean", "is_array", "is_set", "is_object", "is_null", "type_name",

	// Text.
	"concat", "contains", "startswith", "endswith", "format_int", "indexof", "indexof_n", "lower", "upper",
	"replace", "split", "sprintf", "substring",
	"trim", "trim_left", "trim_prefix", "trim_right", "trim_suffix", "trim_space",
	"strings.any_prefix_match", "strings.any_suffix_match", "strings.count", "strings.render_template",
	"strings.replace_n", "strings.reverse", "strings.split_n", "internal.template_string",
	"regex.is_valid", "regex.match", "re_match", "regex.split", "regex.globs_match", "regex.template_match",
	"regex.find_n", "regex.find_all_string_submatch_n", "regex.replace",
	"glob.match", "glob.quote_meta",
	"units.parse", "units.parse_bytes", "uuid.parse", "semver.is_valid", "semver.compare",
	"print", "internal.print",

	// Encodings.
	"json.marshal", "json.marshal_with_options", "json.unmarshal", "json.is_valid",
	"yaml.marshal", "yaml.unmarshal", "yaml.is_valid",
	"base64.encode", "base64.decode", "base64.is_valid",
	"base64url.encode", "base64url.encode_no_pad", "base64url.decode",
	"hex.encode", "hex.decode",
	"urlquery.decode", "urlquery.encode", "urlquery.encode_object", "urlquery.decode_object",
	"uri.parse", "uri.is_valid",
	"graphql.parse", "graphql.parse_and_verify", "graphql.parse_query", "graphql.parse_schema",
	"graphql.is_valid", "graphql.schema_is_valid",

	// Networks, time, cryptography.
	"net.cidr_overlap", "net.cidr_intersects", "net.cidr_contains", "net.cidr_contains_matches",
	"net.cidr_expand", "net.cidr_merge", "net.cidr_is_valid",
	"time.parse_ns", "time.parse_rfc3339_ns", "time.parse_duration_ns", "time.format", "time.date", "time.clock",
	"time.weekday", "time.add_date", "time.diff",
	"crypto.md5", "crypto.sha1", "crypto.sha256",
	"crypto.hmac.md5", "crypto.hmac.sha1", "crypto.hmac.sha256", "crypto.hmac.sha512", "crypto.hmac.equal",
	"crypto.x509.parse_certificates", "crypto.x509.parse_certificate_request",
	"crypto.x509.parse_rsa_private_key", "crypto.x509.parse_keypair", "crypto.parse_private_keys",
	"io.jwt.decode",
	"io.jwt.verify_rs256", "io.jwt.verify_rs384", "io.jwt.verify_rs512",
	"io.jwt.verify_ps256", "io.jwt.verify_ps384", "io.jwt.verify_ps512",
	"io.jwt.verify_es256", "io.jwt.verify_es384", "io.jwt.verify_es512", "io.jwt.verify_eddsa",
	"io.jwt.verify_hs256", "io.jwt.verify_hs384", "io.jwt.verify_hs512",

	// Replaced by constants when the policy is compiled.
	"rego.metadata.chain", "rego.metadata.rule",
)

func nameSet(list ...string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, name := range list {
		set[name] = true
	}
	return set
}
