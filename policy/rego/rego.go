// Package rego asks the policy. It turns a directory of Rego and data into an
// immutable Snapshot, and a policy.Input into a policy.Verdict.
//
// # From files to a decision
//
//	Load     directory          → Bundle     bounded reading, nothing compiled
//	Compile  Bundle             → Snapshot   everything checked, or all errors at once
//	Activate Snapshot           → Engine     one atomic pointer
//	Decide   policy.Input       → policy.Verdict
//
// A Snapshot holds the compiler, the compiled query, the data as one AST value
// that nothing can write (no transactions, no locks), what the decision can
// depend on, and its own caches. A request loads the pointer once, so it is
// decided by exactly one revision, and a swap can never serve an old answer.
//
// # Input
//
// One table (document.go) lists every field that a policy can read: its name and
// how to get it from the Go types. At activation the analysis of the compiled
// policy says which of them the decision can depend on; from that, plan.go
// derives two things: the input document, pruned to those fields, and the key of
// the decision cache, which is their values in an injective encoding. Both come
// from the same getters, so the cache cannot miss what the policy can see.
//
// # Answers
//
// An answer is a Verdict or an error, and an error is never an answer about the
// caller. Undefined, conflicting and malformed results are Verdicts that deny: the
// policy was asked and did not say yes. ErrNoPolicy, ErrTimeout, ErrOverloaded
// and *Fault say that it could not be asked. Only the boolean true, or an object
// whose `allow` is the boolean true and whose `deny` is empty, allows.
//
// # Bounds
//
// What a request brings is bounded before it is shown to a policy (MaxValue). What a
// policy does with it is bounded in time, in work and in what it keeps from others:
// bound.go says how, costs.go holds what each built-in function may cost, growth.go
// refuses what no bound at run time would catch.
package rego

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/strictyaml"
)

// DefaultEntrypoint is the decision that is asked for when the configuration
// names none.
const DefaultEntrypoint = "data.postern.authz.decision"

// Config says where the policy is and how far it may go.
type Config struct {
	// Path is a directory of *.rego and of data in *.json, *.yaml and *.yml. Data
	// of a subdirectory a/b is found as data.a.b. Files named *_test.* and hidden
	// ones are left out; symbolic links must stay inside the directory.
	Path string `yaml:"path"`
	// Entrypoint is the rule that decides, for example data.envoy.authz.allow.
	// The default is data.postern.authz.decision, which policy/lib provides where
	// the directory holds data and no Rego.
	Entrypoint string `yaml:"entrypoint"`
	// RegoVersion is the syntax of the *.rego files: 1, the default, or 0 for
	// policies older than OPA 1.0. A file that says `import rego.v1` is read as 1
	// either way.
	RegoVersion *int `yaml:"rego_version"`
	// OPAEnvoy reads results and errors as the OPA-Envoy plugin does: an object
	// allows with `allowed: true`, and a built-in function that fails is undefined
	// instead of failing the whole decision. Off by default, because a rule such
	// as `allow if not blocked(x)` would then allow what it failed to look at.
	OPAEnvoy bool `yaml:"opa_envoy"`
	// Strict refuses policies that Postern otherwise only warns about, such as
	// `default allow := true`.
	Strict bool `yaml:"strict"`

	// Timeout bounds one evaluation and the wait for it; the default is 50ms, less
	// if the caller's own deadline is near. A request whose decision takes longer
	// is denied with policy_timeout.
	Timeout time.Duration `yaml:"timeout"`
	// MaxEvaluations bounds how many evaluations run at once. Others wait for up to
	// half of their time and are denied with overloaded then, or at once if so many
	// wait already that this would be in vain. The default is 1 for each processor. One
	// that takes longer than 2 ms, and four times what is usual for the policy, gives its
	// place back and goes on as one of at most half as many slow ones, so that quick ones
	// do not wait for it. Danger: evaluations beyond that do not end any sooner, and they
	// keep the processors from those that have an answer to send.
	MaxEvaluations int `yaml:"max_evaluations"`
	// MaxValue is the longest string, in bytes, that is handed to a policy; the
	// default is 64 KiB. A request that holds a longer one where the policy looks
	// is refused, because some built-in functions run on past any deadline.
	MaxValue int `yaml:"max_value"`
	// MaxMemory bounds about the bytes that the built-in functions of one evaluation
	// read and make; the default is 64 MiB, and one call may take a sixteenth of it.
	// A policy that asks for more fails. Danger: such a call, once begun, is not
	// stopped by any deadline, and four MiB of work already take up to 10 ms.
	MaxMemory int `yaml:"max_memory"`

	// ProtoDescriptor is a file with the descriptors of gRPC services, made with `protoc
	// --include_imports --descriptor_set_out`. With it, policies see the messages of
	// unary calls in input.parsed_body. It is read when a policy is loaded.
	ProtoDescriptor strictyaml.Path `yaml:"proto_descriptor"`

	// AllowBuiltins names functions that are refused by default because they
	// reach the network, the process or entropy, or sign: http.send,
	// net.lookup_ip_addr, opa.runtime, rand.intn, uuid.rfc4122,
	// io.jwt.encode_sign, io.jwt.encode_sign_raw, trace, rego.parse_module; or whose
	// work nothing can bound: strings.render_template. Decisions that use an impure
	// one are never cached.
	AllowBuiltins []string `yaml:"allow_builtins"`
	// AllowHosts are the only hosts that http.send and net.lookup_ip_addr may
	// reach, redirects included. Empty: none.
	AllowHosts []string `yaml:"allow_hosts"`
	// InsecureExposeCredentials shows policies the header fields that carry
	// credentials. Danger: a policy can then copy a secret into an answer, and
	// each credential becomes a decision of its own in the cache.
	InsecureExposeCredentials bool `yaml:"insecure_expose_credentials"`
	// CredentialHeaders are further header fields that carry credentials and are
	// hidden from policies, besides authorization, proxy-authorization, cookie,
	// x-api-key and x-vault-token. Lower case.
	CredentialHeaders []string `yaml:"credential_headers"`

	// Cache bounds the decision cache.
	Cache CacheConfig `yaml:"cache"`
	// Limits bounds what is loaded.
	Limits Limits `yaml:"limits"`
}

// CacheConfig bounds the decision cache of one snapshot.
type CacheConfig struct {
	// Size is how many decisions are kept; the default is 65536. A negative size
	// turns the cache off.
	Size int `yaml:"size"`
	// MaxBytes bounds about the memory of all keys and decisions together; the
	// default is 64 MiB. Keys longer than 16 KiB are not cached.
	MaxBytes int64 `yaml:"max_bytes"`
	// MaxTTL is how long a decision may be reused, less if the credential expires
	// sooner; the default is 10s.
	MaxTTL time.Duration `yaml:"max_ttl"`
}

// Limits bounds what Load reads. What is over is refused, never cut.
type Limits struct {
	// Files is how many files a policy may have; the default is 4096.
	Files int `yaml:"files"`
	// Bytes is their size together; the default is 64 MiB.
	Bytes int64 `yaml:"bytes"`
	// Depth is how deep directories and data may nest; the default is 32.
	Depth int `yaml:"depth"`
}

func (c Config) withDefaults() Config {
	setDefault(&c.Entrypoint, DefaultEntrypoint)
	setDefault(&c.Timeout, 50*time.Millisecond)
	setDefault(&c.MaxEvaluations, runtime.GOMAXPROCS(0))
	setDefault(&c.MaxValue, 64<<10)
	setDefault(&c.MaxMemory, defaultMemory)
	setDefault(&c.Cache.Size, 1<<16)
	setDefault(&c.Cache.MaxBytes, 64<<20)
	setDefault(&c.Cache.MaxTTL, 10*time.Second)
	setDefault(&c.Limits.Files, 4096)
	setDefault(&c.Limits.Bytes, 64<<20)
	setDefault(&c.Limits.Depth, 32)
	return c
}

const defaultMemory = 64 << 20

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// The errors of Decide. Each means "could not find out", and none is about the
// caller.
var (
	// ErrNoPolicy says that no policy is active, or that there is none to load.
	ErrNoPolicy = errors.New("no policy")
	// ErrTimeout says that the policy did not answer within its time.
	ErrTimeout = errors.New("the policy did not answer in time")
	// ErrOverloaded says that the evaluation could not start within half of its time, or
	// that so many wait that it could not have.
	ErrOverloaded = errors.New("too many policy evaluations at once")
)

// Fault is an evaluation that failed: an error of a built-in function, a broken
// policy or a panic. It says what failed and where, for logs only. It does not keep
// the cause, whose text may quote the request: to_number("hunter2").
type Fault struct {
	// Revision is the policy that failed.
	Revision string
	// What failed: OPA's error code and the built-in function, or a Go type.
	What string
	// File and Line are where in the policy; empty and 0 if unknown.
	File string
	Line int
}

// Error says what failed and where.
func (f *Fault) Error() string {
	if f.File == "" {
		return fmt.Sprintf("policy %s failed: %s", f.Revision, f.What)
	}
	return fmt.Sprintf("policy %s failed: %s:%d: %s", f.Revision, f.File, f.Line, f.What)
}

// Problem is one thing that is wrong with a policy.
type Problem struct {
	// File is relative to the policy directory; Line and Column start at 1, and
	// are 0 if unknown.
	File         string
	Line, Column int
	// Text says what is wrong and, where it can, what to do instead.
	Text string
}

// String returns "file:line:column: text".
func (p Problem) String() string {
	switch {
	case p.File == "":
		return p.Text
	case p.Line == 0:
		return p.File + ": " + p.Text
	case p.Column == 0:
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
}

// Problems is everything that is wrong with a policy, in the order of the files.
type Problems []Problem

// Error returns one problem a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

func (p Problems) orNil() error {
	if len(p) == 0 {
		return nil
	}
	return p
}
