// Package audit remembers decisions: a ring in RAM for `postern explain`, a log
// for people and machines, events in OPA's format, and metrics.
//
// Nothing here delays an answer or makes it fail, but the Journal, and that only where a
// route asks for it. The ring copies what it keeps into fixed slots, so that it neither
// allocates nor holds on to the memory of a request; the log hands records to one
// goroutine through a bounded queue and counts what does not fit. Async does the same
// for the process's own log, in which the lines of decisions end as well.
//
// Events hold the whole input of the policy. On the path of the request they are
// copied into a pooled entry, which is bounded in number and in bytes, and nothing
// else is done. One goroutine makes the event of it: it asks the policy for the input
// document, takes out what is not for logs, asks the policy in force what else to mask
// or to drop, and hands the JSON to an outbox for each sink (file, stdout, a service),
// each with a goroutine of its own, so that none waits for another.
//
// Shadow takes requests in the same way, asks a second policy about them, and counts
// where it would have decided otherwise.
//
// No record holds a secret: credentials never get here, the query of a URL is
// left out, and every text of the client is cut to 256 bytes and escaped by
// whoever prints it. Events have their own rules (Event.withhold).
package audit

import (
	"net/netip"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// maxText is how many bytes are kept of a text that a client chose.
const maxText = 256

// Record is one decision and the request that it answers.
type Record struct {
	Time    time.Time
	Latency time.Duration
	// Decision is the answer. Its slices and pointers are shared and immutable.
	Decision policy.Decision
	// Door, Caller and RequestID are as in policy.Attributes.
	Door, Caller, RequestID string
	// Method, Host and Path are the canonical ones, and empty if the request could
	// not be read; never the query.
	Method, Host, Path string
	// ClientIP is the client's address; invalid if unknown.
	ClientIP netip.Addr
	// Found says where credentials were found, for example
	// "header:authorization/bearer"; empty for none.
	Found string
	// Input is what a policy is asked, as far as the check got. It is valid during
	// Record only; the Attributes in it stay as they are.
	Input *policy.Input
	// Trace is the trace that the check is a part of; nil if it is part of none. It is
	// valid during Record only.
	Trace *Trace
}

// own returns a copy for later: of what belongs to the request, it has its own.
func (r *Record) own() Record {
	c := *r
	c.Input = nil
	for _, text := range c.texts() {
		*text = strings.Clone(cut(*text))
	}
	if r.Trace != nil {
		t := *r.Trace
		t.State, t.Baggage = "", nil
		c.Trace = &t
	}
	return c
}

// texts are the fields whose memory belongs to the request.
func (r *Record) texts() [6]*string {
	return [...]*string{&r.RequestID, &r.Method, &r.Host, &r.Path, &r.Caller, &r.Found}
}

// scrub takes out secrets that a client has put where they do not belong, such as a
// key in the path.
func (r *Record) scrub() {
	for _, text := range r.texts() {
		*text = seal.Scrub(*text)
	}
	r.Decision.Detail = seal.Scrub(r.Decision.Detail)
}

// Recorder takes decisions. Record must not block and must not keep the
// record's strings, which belong to the request.
type Recorder interface {
	Record(r *Record)
}

// Tee records to all of its members, in order.
type Tee []Recorder

// Record implements Recorder.
func (t Tee) Record(r *Record) {
	for _, m := range t {
		m.Record(r)
	}
}

// cut bounds a text that a client chose, at a boundary that keeps it UTF-8.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for end > maxText-4 && s[end]&0xc0 == 0x80 {
		end--
	}
	return s[:end]
}
