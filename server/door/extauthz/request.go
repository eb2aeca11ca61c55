package extauthz

import (
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

// maxItems is how many header fields, map entries and JSON values one message
// may hold. An empty one costs two bytes on the wire and up to a hundred here,
// so the limit on the message's size alone would not bound the memory.
const maxItems = 20_000

// maxDepth is how deep the JSON of dynamic metadata may be nested.
const maxDepth = 32

// request is a CheckRequest of which only the Attributes were kept. It is a
// protobuf message to everybody: any codec fills it through message.go.
type request struct {
	protoreflect.Message

	attributes policy.Attributes
	// err says why the message could not be read. The attributes are empty then.
	err error
	// room is where the header fields stand when they are not more than usual.
	room [24]policy.Header
}

// read fills the attributes from the wire. Their strings are parts of one copy
// of the message.
func (q *request) read(wire []byte) {
	q.attributes = policy.Attributes{Size: -1}
	d := decoder{room: q.room[:0]}
	if q.err = d.check(string(wire)); q.err == nil {
		d.finish(&q.attributes)
	}
}

// decoder holds what was read so far. Messages that occur more than once are
// merged, scalars are overwritten, as protobuf wants it; so every message of the
// request is read into one place, however often it begins. What Postern has no
// use for (TLS session, route metadata, typed metadata) is skipped unread.
type decoder struct {
	items int
	room  []policy.Header

	source, destination endpoint
	extensions          map[string]string
	metadata            map[string]any

	timed   bool
	seconds int64
	nanos   int32

	id, method, path, host, scheme, query, fragment, protocol, body, rawBody string
	size                                                                     int64
	// asked says that there is an HTTP request at all.
	asked bool
	// mapped are the fields of `headers`, listed those of `header_map`.
	mapped, listed policy.Headers
}

// endpoint is a Peer. Of the oneof in its address, the member that came last
// counts: kind is its number.
type endpoint struct {
	kind                            uint64
	ip                              string
	port                            uint32
	principal, certificate, service string
	labels                          map[string]string
}

// count refuses what would make the message too large in memory.
func (d *decoder) count() error {
	if d.items++; d.items > maxItems {
		return errMany
	}
	return nil
}

// check reads an envoy.service.auth.v3.CheckRequest.
func (d *decoder) check(s string) error {
	return each(s, func(f field) (err error) {
		if f.key == keyOf(1, bytes) {
			err = d.context(f.text)
		}
		return err
	})
}

// context reads an AttributeContext.
func (d *decoder) context(s string) error {
	return each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(1, bytes):
			err = d.peer(f.text, &d.source)
		case keyOf(2, bytes):
			err = d.peer(f.text, &d.destination)
		case keyOf(4, bytes):
			err = d.request(f.text)
		case keyOf(10, bytes):
			err = d.pair(f.text, &d.extensions)
		case keyOf(11, bytes):
			err = d.dynamic(f.text)
		}
		return err
	})
}

// pair reads an entry of a map<string, string> into the map.
func (d *decoder) pair(s string, into *map[string]string) error {
	name, value, err := entry(s)
	if err != nil {
		return err
	}
	if *into == nil {
		*into = make(map[string]string)
	}
	(*into)[name] = value
	return d.count()
}

// peer reads an AttributeContext.Peer.
func (d *decoder) peer(s string, p *endpoint) error {
	return each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(1, bytes):
			err = d.address(f.text, p)
		case keyOf(2, bytes):
			p.service, err = utf8Text(f.text)
		case keyOf(3, bytes):
			err = d.pair(f.text, &p.labels)
		case keyOf(4, bytes):
			p.principal, err = utf8Text(f.text)
		case keyOf(5, bytes):
			p.certificate, err = utf8Text(f.text)
		}
		return err
	})
}

// socketAddress is the one kind of Address that can be an IP address; the others
// are pipe and envoy_internal_address.
const socketAddress = 1

// address reads a config.core.v3.Address.
func (d *decoder) address(s string, p *endpoint) error {
	return each(s, func(f field) (err error) {
		if number := f.key >> 3; f.key&7 == bytes && number <= 3 {
			if p.kind != number {
				p.kind, p.ip, p.port = number, "", 0
			}
			if number == socketAddress {
				err = d.socket(f.text, p)
			}
		}
		return err
	})
}

// socket reads a SocketAddress.
func (d *decoder) socket(s string, p *endpoint) error {
	return each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(2, bytes):
			p.ip, err = utf8Text(f.text)
		case keyOf(3, varint):
			p.port = uint32(f.number)
		case keyOf(4, bytes): // a named port: the other member of the oneof
			p.port = 0
		}
		return err
	})
}

// request reads an AttributeContext.Request.
func (d *decoder) request(s string) error {
	return each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(1, bytes):
			err = d.timestamp(f.text)
		case keyOf(2, bytes):
			err = d.http(f.text)
		}
		return err
	})
}

// timestamp reads a google.protobuf.Timestamp.
func (d *decoder) timestamp(s string) error {
	d.timed = true
	return each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(1, varint):
			d.seconds = int64(f.number)
		case keyOf(2, varint):
			d.nanos = int32(f.number)
		}
		return err
	})
}

// http reads an AttributeContext.HttpRequest.
func (d *decoder) http(s string) error {
	d.asked = true
	return each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(1, bytes):
			d.id, err = utf8Text(f.text)
		case keyOf(2, bytes):
			d.method, err = utf8Text(f.text)
		case keyOf(3, bytes):
			err = d.mappedHeader(f.text)
		case keyOf(4, bytes):
			d.path, err = utf8Text(f.text)
		case keyOf(5, bytes):
			d.host, err = utf8Text(f.text)
		case keyOf(6, bytes):
			d.scheme, err = utf8Text(f.text)
		case keyOf(7, bytes):
			d.query, err = utf8Text(f.text)
		case keyOf(8, bytes):
			d.fragment, err = utf8Text(f.text)
		case keyOf(9, varint):
			d.size = int64(f.number)
		case keyOf(10, bytes):
			d.protocol, err = utf8Text(f.text)
		case keyOf(11, bytes):
			d.body, err = utf8Text(f.text)
		case keyOf(12, bytes):
			d.rawBody = f.text
		case keyOf(13, bytes):
			err = d.headerMap(f.text)
		}
		return err
	})
}

// mappedHeader reads an entry of the map `headers`. Where protobuf would let the
// last entry of a name win, both are kept: a field that decides something and
// has two values is refused further on, and not read in one of two ways.
func (d *decoder) mappedHeader(s string) error {
	name, value, err := entry(s)
	if err != nil {
		return err
	}
	d.add(&d.mapped, name, value)
	return d.count()
}

// headerMap reads a config.core.v3.HeaderMap.
func (d *decoder) headerMap(s string) error {
	return each(s, func(f field) (err error) {
		if f.key == keyOf(1, bytes) {
			err = d.listedHeader(f.text)
		}
		return err
	})
}

// listedHeader reads a HeaderValue. Its value is in `value` or, where it need
// not be UTF-8, in `raw_value`; two different ones are two fields.
func (d *decoder) listedHeader(s string) error {
	var name, value, raw string
	if err := each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(1, bytes):
			name, err = utf8Text(f.text)
		case keyOf(2, bytes):
			value, err = utf8Text(f.text)
		case keyOf(3, bytes):
			raw = f.text
		}
		return err
	}); err != nil {
		return err
	}
	if raw != "" {
		d.add(&d.listed, name, raw)
	}
	if raw == "" || value != "" && value != raw {
		d.add(&d.listed, name, value)
	}
	return d.count()
}

// add appends a field. The first list that gets one stands in the room.
func (d *decoder) add(to *policy.Headers, name, value string) {
	if d.mapped == nil && d.listed == nil {
		*to = d.room
	}
	*to = append(*to, policy.Header{Name: door.Lower(name), Value: value})
}

// finish fills the attributes from what was read.
func (d *decoder) finish(a *policy.Attributes) {
	a.Method, a.Scheme, a.Host, a.Protocol = d.method, d.scheme, d.host, d.protocol
	a.Path = d.target()
	a.Headers = d.headers()
	a.Proxyless = d.host == "" && d.scheme == ""
	if d.asked {
		a.Size = d.size
	}
	a.Source, a.Destination = d.source.words(), d.destination.words()
	a.Extensions, a.Metadata = d.extensions, d.metadata
	if d.timed && d.seconds >= minSeconds && d.seconds <= maxSeconds && d.nanos >= 0 && d.nanos < 1e9 {
		a.Time = time.Unix(d.seconds, int64(d.nanos)).UTC()
	}
	d.fillBody(a)
	a.RequestID = d.id
	if id, n := a.Headers.Get("x-request-id"); n == 1 {
		a.RequestID = id // what gateways log; Envoy's own id names the stream
	}
	if a.Method == "" && d.proxyless() {
		a.Method = "POST"
	}
}

// The years 1 to 9999, which is what a Timestamp may hold.
const (
	minSeconds = -62_135_596_800
	maxSeconds = 253_402_300_799
)

// proxyless reports whether the question comes from a gRPC server that asks for
// itself (gRFC A92): it knows no host, no scheme and no map of headers, and all
// its requests are POST.
func (d *decoder) proxyless() bool {
	return d.host == "" && d.scheme == "" && d.mapped == nil && d.listed != nil &&
		strings.Count(d.path, "/") == 2 && d.path[0] == '/'
}

// target returns the request target. Envoy puts the query into the path and
// leaves `query` and `fragment` empty. Where a gateway fills them they become
// part of the path, so that nothing is decided on half of it.
func (d *decoder) target() string {
	target := d.path
	if _, query, ok := strings.Cut(d.path, "?"); d.query != "" && !(ok && query == d.query) {
		target += "?" + d.query
	}
	if d.fragment != "" {
		target += "#" + d.fragment
	}
	return target
}

// headers returns the fields of both forms. A gateway sends one of them. If it
// sends both, the list is taken, and of the map every field that does not say
// the same: so a field with two readings occurs twice, and is refused where it
// decides something.
func (d *decoder) headers() policy.Headers {
	switch {
	case d.listed == nil:
		return d.mapped
	case d.mapped == nil:
		return d.listed
	}
	// rest is what the list has yet to say of a map's value, which is the list's
	// values with commas between.
	rest := make(map[string]string, len(d.mapped))
	for _, h := range d.mapped {
		if _, twice := rest[h.Name]; twice {
			rest[h.Name] = differs
			continue
		}
		rest[h.Name] = "," + h.Value
	}
	for _, h := range d.listed {
		if r, ok := rest[h.Name]; ok {
			rest[h.Name] = consume(r, h.Value)
		}
	}
	all := d.listed
	for _, h := range d.mapped {
		if r, ok := rest[h.Name]; !ok || r != "" {
			all = append(all, h)
		}
	}
	return all
}

// differs is no rest of a value: those begin with a comma.
const differs = "!"

func consume(rest, value string) string {
	after, ok := strings.CutPrefix(rest, ",")
	if after, ok2 := strings.CutPrefix(after, value); ok && ok2 {
		return after
	}
	return differs
}

// fillBody takes the body in either form. Two different ones are no body that
// anything may be decided on: it counts as cut off.
func (d *decoder) fillBody(a *policy.Attributes) {
	body := d.rawBody
	if body == "" {
		body = d.body
	}
	if body != "" {
		a.Body = []byte(body)
	}
	partial, n := a.Headers.Get("x-envoy-auth-partial-body")
	a.BodyTruncated = n > 1 || n == 1 && partial != "false" || d.body != "" && d.body != body
}

// words returns the endpoint as the Attributes have it.
func (p *endpoint) words() policy.Endpoint {
	e := policy.Endpoint{Principal: p.principal, Certificate: p.certificate, Service: p.service, Labels: p.labels}
	if p.kind != socketAddress {
		return e
	}
	if ip, err := netip.ParseAddr(p.ip); err == nil {
		port := uint16(p.port)
		if p.port > 1<<16-1 {
			port = 0
		}
		e.Address = netip.AddrPortFrom(ip, port)
	}
	return e
}
