package extauthz

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/postern-auth/postern/policy"
)

// response is a CheckResponse in its wire form.
type response struct {
	protoreflect.Message

	wire []byte
	// room is where the wire form stands when it is not longer than usual.
	room [1024]byte
}

// The fields of a CheckResponse.
const (
	statusField   = 1
	deniedField   = 2
	okField       = 3
	metadataField = 4
	errorField    = 5
)

// The append_action of a HeaderValueOption.
const (
	appendIfExistsOrAdd    = 0
	overwriteIfExistsOrAdd = 2
)

// answer writes the response to a decision that is settled.
func (d *Door) answer(p *response, dec *policy.Decision, a *policy.Attributes) {
	b := p.room[:0]
	if dec.Allowed {
		b = appendAllow(b, dec)
	} else {
		b = d.appendDeny(b, dec, a)
	}
	p.wire = appendMetadata(b, metadataField, dec)
}

// appendAllow appends status and ok_response.
func appendAllow(b []byte, dec *policy.Decision) []byte {
	b, at := open(b, statusField) // OK is the zero status
	b = shut(b, at)
	b, at = open(b, okField)
	for _, h := range dec.Upstream {
		b = appendHeader(b, 2, h, overwriteIfExistsOrAdd)
	}
	for _, name := range dec.Remove {
		// Envoy removes after it has set: a field that is set needs no removing,
		// because it replaces what the client sent.
		if _, set := policy.Headers(dec.Upstream).Get(name); set == 0 {
			b = appendText(b, 5, valid(name))
		}
	}
	for _, h := range dec.Client {
		b = appendHeader(b, 6, h, appendIfExistsOrAdd)
	}
	if v := dec.Verdict; v != nil {
		for _, q := range v.SetQuery {
			b = appendPair(b, 7, valid(q.Name), valid(q.Value))
		}
		b = appendTexts(b, 8, v.RemoveQuery)
	}
	b = appendTexts(b, 8, dec.RemoveQuery)
	return shut(b, at)
}

// appendDeny appends status and denied_response, or error_response for a fault
// where the configuration says so.
func (d *Door) appendDeny(b []byte, dec *policy.Decision, a *policy.Attributes) []byte {
	den := d.refusals.Render(dec, a)
	b = appendStatus(b, den.Code, den.Message)
	number := uint64(deniedField)
	if dec.Reason.Fault() && d.onFault == OnFaultErrorResponse {
		number = errorField
	}
	b, at := open(b, number)
	b, status := open(b, 1)
	b = shut(appendVarint(b, 1, uint64(den.Status)), status)
	for i, h := range den.Headers {
		if a.Host == "" && h.Name == "grpc-status" {
			continue // a gRPC server makes it itself, and takes no other's
		}
		action := uint64(overwriteIfExistsOrAdd)
		if _, n := policy.Headers(den.Headers[:i]).Get(h.Name); n > 0 {
			action = appendIfExistsOrAdd
		}
		b = appendHeader(b, 2, h, action)
	}
	if den.Body != "" {
		b = appendText(b, 3, den.Body)
	}
	return shut(b, at)
}

// appendStatus appends a google.rpc.Status.
func appendStatus(b []byte, code codes.Code, message string) []byte {
	b, at := open(b, statusField)
	b = appendVarint(b, 1, uint64(code))
	if message != "" {
		b = appendText(b, 2, message)
	}
	return shut(b, at)
}

// appendHeader appends a HeaderValueOption.
func appendHeader(b []byte, number uint64, h policy.Header, action uint64) []byte {
	b, at := open(b, number)
	b = appendPair(b, 1, h.Name, h.Value)
	if action != 0 {
		b = appendVarint(b, 3, action)
	}
	return shut(b, at)
}

func appendTexts(b []byte, number uint64, list []string) []byte {
	for _, s := range list {
		b = appendText(b, number, valid(s))
	}
	return b
}

// appendPair appends a message of two texts: HeaderValue and QueryParameter.
func appendPair(b []byte, number uint64, name, value string) []byte {
	b, at := open(b, number)
	b = appendText(b, 1, name)
	b = appendText(b, 2, value)
	return shut(b, at)
}
