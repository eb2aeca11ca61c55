package main

import (
	"encoding/xml"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// GRPC-09: h2spec, which POSTERN_H2SPEC names, finds nothing at a listener that it does
// not find at a bare server of the same library.
func TestWireH2spec(t *testing.T) {
	program := os.Getenv("POSTERN_H2SPEC")
	if program == "" {
		t.Skip("POSTERN_H2SPEC is not set: go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible")
	}
	p := launchWire(t, "")
	bareRPC := grpc.NewServer(grpc.MaxConcurrentStreams(1_000)) // without a limit, there is nothing to exceed
	healthpb.RegisterHealthServer(bareRPC, health.NewServer())
	bareHTTP := &http.Server{Handler: http.NotFoundHandler(), Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	bareHTTP.Protocols.SetUnencryptedHTTP2(true)
	serving := func(serve func(net.Listener) error, stop func()) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = serve(l) }()
		t.Cleanup(stop)
		return l.Addr().String()
	}
	rpc := serving(bareRPC.Serve, bareRPC.Stop)
	pages := serving(bareHTTP.Serve, func() { _ = bareHTTP.Close() })
	known := map[string][]string{rpc: specified(t, program, rpc), pages: specified(t, program, pages)}
	for _, l := range p.listeners() {
		like := pages
		if l.name == "grpc" {
			like = rpc
		}
		failed := specified(t, program, l.at)
		t.Logf("%s: %d fail, of the bare server %d", l.name, len(failed), len(known[like]))
		for _, name := range failed {
			if !slices.Contains(known[like], name) && !slices.Contains(specified(t, program, l.at), name) {
				continue // it did not the second time: the machine is busy
			} else if !slices.Contains(known[like], name) {
				t.Errorf("%s: %s", l.name, name)
			}
		}
	}
	p.alive(t)
}

// specified runs h2spec and returns the names of what failed.
func specified(t *testing.T, program, at string) (failed []string) {
	t.Helper()
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	// It ends with a status of 1 if anything fails, and the bare servers have failures.
	out, runErr := exec.CommandContext(t.Context(), program, "-h", host, "-p", port, "-P", "/", "-o", "2", "-j", report, "generic", "http2", "hpack").CombinedOutput()
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v %v\n%s", err, runErr, out)
	}
	var result struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &result); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, suite := range result.Suites {
		for _, c := range suite.Cases {
			if ran++; c.Failure != nil || c.Error != nil {
				failed = append(failed, suite.Package+" "+c.Name)
			}
		}
	}
	if ran < 100 {
		t.Fatalf("only %d cases: %s", ran, out)
	}
	return failed
}
