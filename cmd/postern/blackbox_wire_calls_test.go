package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// GRPC-01: no method can be reached under a path that is not its own, such as one without
// the slash, on any listener, by the administrator either.
func TestWirePaths(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	admin := "Bearer " + strings.TrimSpace(p.read(t, "admin.key"))
	changes := func() int { return metric(t, p.scrape(t), "postern_store_change") }
	before := changes()
	for _, l := range p.listeners() {
		w := speak(t, l.at)
		for _, m := range everyMethod(t) {
			path := pathOf(m)
			for _, other := range []string{path[1:], "", "*", "/" + path, path + "/", "/." + path, path + "%00", strings.ToUpper(path), "http://postern.test" + path} {
				a := w.call(other, envelope(newMessage(t, m.Input())), "authorization", admin)
				if redirected := strings.HasPrefix(a.status, "3") && other != path[1:]; !a.refused() && !redirected {
					t.Errorf("%s %q: %+v", l.name, other, a)
				}
				if a.closed != nil || a.goaway {
					w = speak(t, l.at)
				}
			}
		}
	}
	if text := p.scrape(t); changes() != before || strings.Contains(text, "postern_decisions_total{") {
		t.Errorf("something was decided or changed: %s", text)
	}
	p.alive(t)
}

// GRPC-02: every method of the admin API refuses who shows no credential, nonsense, one
// that is not an administrator's, or an administrator's that has expired; nothing changes.
// They are walked by their descriptors, so that none can be forgotten. The one service
// that is open there is that of decisions, on the machine itself.
func TestWireEveryMethodIsGuarded(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	p.service(t, "app")
	p.service(t, "boss", "tenant-admin")
	_, app := p.key(t, "app")
	_, expired := p.issue(t, &adminv1.Credential{Type: apiKey, PrincipalId: "boss", Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(2 * time.Second)}})
	conn := dial(t, p.admin)
	call := func(m protoreflect.MethodDescriptor, as string) (err error) {
		eventually(t, "the replica sees", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if as != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+as)
			}
			var stream grpc.ClientStream
			if stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, pathOf(m)); err == nil {
				if err = stream.SendMsg(newMessage(t, m.Input())); err == nil {
					_ = stream.CloseSend()
					err = stream.RecvMsg(newMessage(t, m.Output()))
				}
			}
			return status.Code(err) != codes.Unavailable
		})
		return err
	}
	eventually(t, "the key has expired", func() bool {
		return status.Code(call(methodNamed(t, "CredentialService/ListCredentials"), expired)) == codes.Unauthenticated
	})
	before := metric(t, p.scrape(t), "postern_store_change")
	walked := 0
	for _, m := range everyMethod(t) {
		if !strings.HasPrefix(pathOf(m), "/postern.admin.") || m.Parent().Name() == "DecisionService" {
			continue
		}
		walked++
		for as, key := range map[string]string{"nobody": "", "nonsense": "pst_key_AAAA", "an expired administrator": expired} {
			if err := call(m, key); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s as %s: %v", pathOf(m), as, err)
			}
		}
		// An empty message can be about nothing at all, which comes before whether one may.
		switch err := call(m, app); status.Code(err) {
		case codes.PermissionDenied, codes.NotFound, codes.InvalidArgument:
		default:
			t.Errorf("%s as no administrator: %v", pathOf(m), err)
		}
	}
	if walked < 50 {
		t.Errorf("only %d methods", walked)
	}
	if after := metric(t, p.scrape(t), "postern_store_change"); after != before {
		t.Errorf("change %d, was %d", after, before)
	}
}

// GRPC-03: what is for operators is not on the listeners of the data plane, and what
// tells of the process is nowhere.
func TestWireWhatIsAbsent(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	for _, l := range p.listeners() {
		w := speak(t, l.at)
		for _, m := range everyMethod(t) {
			path := pathOf(m)
			doors := strings.HasPrefix(path, "/postern.v1.") || path == checks
			health := strings.HasPrefix(path, "/grpc.health.v1.Health/")
			if l.name == "admin" && strings.HasPrefix(path, "/postern.admin.") || l.name == "grpc" && (doors || health) ||
				l.name == "gateway" && strings.HasPrefix(path, "/postern.v1.CheckService/") {
				continue
			}
			if a := w.call(path, envelope(newMessage(t, m.Input()))); !a.refused() || a.goaway || a.closed != nil {
				t.Errorf("%s has %s: %+v", l.name, path, a)
			}
		}
		for _, path := range []string{"/grpc.channelz.v1.Channelz/GetServers", "/grpc.channelz.v1.Channelz/GetTopChannels", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"} {
			if a := w.call(path, envelope(&adminv1.Credential{})); !a.refused() {
				t.Errorf("%s has %s: %+v", l.name, path, a)
			}
		}
		for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap", "/debug/vars", "/debug/requests", "/debug/events", "/readyz", "/healthz", "/config", "/channelz"} {
			stream, err := w.open(true, ":method", "GET", ":scheme", "http", ":path", path, ":authority", l.at)
			if err != nil {
				t.Fatal(err)
			}
			a := w.hear(stream)
			operators := path == "/metrics" || path == "/readyz" || path == "/healthz"
			if open := !a.refused(); open != (l.name == "admin" && operators) {
				t.Errorf("%s: GET %s: %+v", l.name, path, a)
			}
			if strings.Contains(string(a.data), "serve") && strings.Contains(string(a.data), "postern.yaml") {
				t.Errorf("%s: GET %s tells the command line", l.name, path)
			}
		}
	}
}

// GRPC-11: what is too large, lies about its length, is compressed or comes twice is an
// error of the protocol, and is not held in memory.
func TestWireMessages(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	p.alive(t)
	before := p.holds(t)
	length := func(n uint32, rest int) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, n), make([]byte, rest)...)
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 10 << 10 { // 10 GiB when it is unpacked a thousand times; here 10 MiB
		_, _ = z.Write(make([]byte, 1<<10))
	}
	_ = z.Close()
	packed := append(binary.BigEndian.AppendUint32([]byte{1}, uint32(bomb.Len())), bomb.Bytes()...)
	twice := append(asking(), asking()...)
	for name, c := range map[string]struct {
		data []byte
		more []string
		want string // grpc-status, several
	}{
		"a byte more than the limit": {length(4<<20+1, 16<<10), nil, "8"},
		"a length that is a lie":     {length(1<<32-1, 5), nil, "8"},
		"less than it says":          {length(100, 5), nil, "13"},
		"half a prefix":              {[]byte{0, 0}, nil, "13"},
		"gzip":                       {packed, []string{"grpc-encoding", "gzip"}, "12 8"},
		"gzip, and nobody says so":   {packed, nil, "13 12"},
		"an unknown encoding":        {packed, []string{"grpc-encoding", "zip"}, "12"},
		"a flag that is not defined": {append([]byte{7}, asking()[1:]...), nil, "13"},
		"two messages":               {twice, nil, "13 12"},
		"no message":                 {nil, nil, "13"},
		"nonsense":                   {append(length(8, 0), "\xff\xff\xff\xff\xff\xff\xff\xff"...), nil, "13"},
	} {
		for _, path := range []string{checks, "/postern.v1.CheckService/Check", "/postern.v1.UsageService/Settle"} {
			a := speak(t, p.rpc).call(path, c.data, c.more...)
			denied := path == checks && a.grpc == "0" && !a.yes() // what can be said in its own words is a deny
			if !denied && (a.grpc == "" || !strings.Contains(" "+c.want+" ", " "+a.grpc+" ")) {
				t.Errorf("%s: %s: %+v, want %s", name, path, a, c.want)
			}
		}
		if a := speak(t, p.admin).call("/postern.admin.v1.TenantService/CreateTenant", c.data, c.more...); a.grpc == "0" || !a.refused() && a.grpc == "" {
			t.Errorf("%s: admin: %+v", name, a)
		}
	}
	p.keepsLess(t, before, 16<<20)
	p.alive(t)
}

// GRPC-12: a deadline that cannot be read is an error, and one that is over is not
// answered with yes; what remains of one in a hundred centuries goes with its call.
func TestWireDeadlines(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "callers: [{ name: elsewhere, cidrs: [192.0.2.0/24] }, { name: here, cidrs: [127.0.0.0/8], token: \"${file:pepper}\" }]")
	token := "Bearer " + strings.TrimSpace(p.read(t, "pepper"))
	w := speak(t, p.rpc)
	for given, fine := range map[string]bool{
		"0n": false, "1n": false, "-1S": false, "1x": false, "": false, "1": false, "S": false, "123456789S": false, "1.5S": false, " 1S": false, "1S ": false, "+1S": false, "0x1S": false, "１S": false,
		"99999999H": true, "99999999S": true, "1H": true, "20S": true,
	} {
		a := w.call(checks, asking(), "grpc-timeout", given, "authorization", token)
		if a.yes() != fine {
			t.Errorf("%q: %+v", given, a)
		}
	}
	// A stranger is refused, however long he wants to wait, and nothing is kept of it.
	before := p.holds(t)
	for range 3000 {
		if a := w.call("/postern.v1.CheckService/Check", nil, "grpc-timeout", "99999999H"); a.grpc != "7" {
			t.Fatalf("a stranger: %+v", a)
		}
	}
	p.calmsDown(t, before)
	heap := metric(t, p.scrape(t), "go_memstats_heap_objects")
	eventually(t, "garbage is collected", func() bool {
		for range 300 {
			w.call("/postern.v1.CheckService/Check", nil, "grpc-timeout", "99999999H")
		}
		return metric(t, p.scrape(t), "go_memstats_heap_objects") <= heap
	})
}

// GRPC-15: who does not speak HTTP/2 is closed, at once if it can be seen, and many of
// them make no flood of lines.
func TestWireOtherProtocols(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	p.alive(t)
	before := p.holds(t)
	for name, first := range map[string]string{
		"HTTP/1.1": "GET / HTTP/1.1\r\nHost: postern.test\r\n\r\n", "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"noise": "\x00\xff\x17", "PROXY v1": "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY v2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
		"nearly HTTP/2": "PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", "one byte": "G",
	} {
		for range 20 {
			c := rawConn(t, p.rpc)
			_, _ = io.WriteString(c, first)
			if _, err := io.Copy(io.Discard, c); isTimeout(err) {
				t.Errorf("%s: still open", name)
			}
			_ = c.Close()
		}
	}
	eventually(t, "a line about them", func() bool {
		return len(p.log.entries(t, "a connection was closed: it is not gRPC")) > 0
	})
	if n := metric(t, p.scrape(t), "postern_connections_bad_total"); n != 140 {
		t.Errorf("%d are counted", n)
	}
	if n := len(p.log.entries(t, "a connection was closed: it is not gRPC")); n > 6 {
		t.Errorf("%d lines", n)
	}
	p.calmsDown(t, before)
	p.alive(t)
	// What speaks HTTP/1.1 where that is right is answered.
	res, err := http.Get("http://" + p.box.gateway + "/.well-known/authzen-configuration")
	if err != nil || res.StatusCode != 200 {
		t.Error(res, err)
	}
}
