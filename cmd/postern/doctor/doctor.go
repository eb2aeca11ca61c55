// Package doctor looks at a wiring that runs, and says what is wrong with it.
//
// Examine goes through what a Question names, in one order: the configuration, its files,
// their certificates, the server that runs with it, the issuers that it believes, its
// listener for gateways, the configuration of an Envoy, and a URL behind any gateway. Each
// look is a method that adds findings and goes on: one that cannot be taken, because a file
// is missing or nobody answers, is a finding too and keeps none of the others from being
// taken. What is known of the configuration sharpens them, and what nobody can know is
// skipped aloud.
//
// Nothing is changed: files are read and every request asks. There are three ways to see
// more than an answer says. The settings of Envoy are read as a tree of JSON of which
// nothing is believed but the names of its fields (envoy.go). Metrics are held against a
// table of alarms (metrics.go). And of a gateway, which can be any, only what comes through
// it counts: requests that nobody may let in, byte for byte as an attacker would write
// them, whose answers are held against what Postern says itself about the same request
// (gateway.go).
package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern-auth/postern/cmd/postern/client"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server"
)

// Level says how bad a finding is.
type Level string

// The levels. A problem lets somebody in, keeps everybody out, or soon will; a warning
// may be meant; what is skipped was not looked at.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Problem Level = "problem"
	Skipped Level = "skipped"
)

// Finding is one thing that was found. Neither text repeats a credential; both may repeat
// what somebody else wrote, and are not escaped for a terminal.
type Finding struct {
	Level Level `json:"level" yaml:"level"`
	// About is the part of the wiring: one word, such as tls or gateway.
	About string `json:"about" yaml:"about"`
	Text  string `json:"text" yaml:"text"`
	// Hint is what to do; empty if nobody knows, or nothing is to be done.
	Hint string `json:"hint,omitempty" yaml:"hint,omitempty"`
}

// Worst is the level of the worst finding: Problem, Warning, or OK for all others.
func Worst(found []Finding) Level {
	for _, l := range []Level{Problem, Warning} {
		if slices.ContainsFunc(found, func(f Finding) bool { return f.Level == l }) {
			return l
		}
	}
	return OK
}

// Field is a header field as it is sent.
type Field struct {
	Name  string
	Value policy.Secret
}

// Question says where to look.
type Question struct {
	// File is the name of the configuration, Config what it says, nil if it cannot be read,
	// and Faults are what `postern config check` says of it.
	File   string
	Config *server.Config
	Faults []error
	// Policy analyzes the policy of the configuration, and is nil, or says nil, if that
	// cannot be done. It is called once at most, and only if it matters.
	Policy func() *rego.Analysis

	// Offline keeps to files: nobody is asked, whatever the fields below name.
	Offline bool
	// Server is how the server is reached, and for how long each answer is waited for.
	// Without an address it is that of the configuration, whose TLS is used as well.
	Server client.Connection
	// Admin and Gateway are the addresses of its other listeners; empty for those of the
	// configuration.
	Admin, Gateway string
	// EnvoyAdmin is the URL of the admin listener of an Envoy whose configuration is looked
	// at, and EnvoyConfig the name of a file with it; empty for none.
	EnvoyAdmin, EnvoyConfig string
	// URL is behind a gateway and needs a credential; empty for none. It is repeated in
	// findings: no password may be in it. Credential are the fields of a good credential
	// for it, if there is one.
	URL        string
	Credential []Field

	// Now is the clock; nil for that of the machine.
	Now func() time.Time
}

// Examine looks at all that the question names and says what it found, in the order in
// which it looked. It takes at most as long as the timeouts of its requests together.
func Examine(ctx context.Context, q Question) []Finding {
	if q.Now == nil {
		q.Now = time.Now
	}
	x := &examination{Question: q}
	x.lookAtConfig()
	x.lookAtFiles()
	x.lookAtCertificates()
	if x.Offline {
		x.skip("server", "not asked: --offline")
	} else {
		x.lookAtServer(ctx)
		x.lookAtIssuers(ctx)
		x.lookAtGatewayListener(ctx)
	}
	x.lookAtEnvoy(ctx)
	if x.URL != "" && !x.Offline {
		x.lookThroughGateway(ctx)
	}
	return x.found
}

// examination is a question, and what has been found so far.
type examination struct {
	Question
	found []Finding
}

func (x *examination) add(l Level, about, text, hint string) {
	x.found = append(x.found, Finding{l, about, text, hint})
}

func (x *examination) ok(about, format string, args ...any) {
	x.add(OK, about, fmt.Sprintf(format, args...), "")
}
func (x *examination) skip(about, text string)          { x.add(Skipped, about, text, "") }
func (x *examination) warn(about, text, hint string)    { x.add(Warning, about, text, hint) }
func (x *examination) problem(about, text, hint string) { x.add(Problem, about, text, hint) }
