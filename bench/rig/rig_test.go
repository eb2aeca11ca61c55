package rig

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// The quick look at an answer sees what a careful one does.
func TestIsAllow(t *testing.T) {
	t.Parallel()
	ok, denied := &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}, &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{}}
	for name, res := range map[string]*authv3.CheckResponse{
		"nothing": {}, "ok": {HttpResponse: ok}, "ok, status 0": {HttpResponse: ok, Status: &rpcstatus.Status{}},
		"ok, status 7": {HttpResponse: ok, Status: &rpcstatus.Status{Code: 7}}, "denied": {HttpResponse: denied}, "denied, status 0": {HttpResponse: denied, Status: &rpcstatus.Status{}},
		"error": {HttpResponse: &authv3.CheckResponse_ErrorResponse{ErrorResponse: &authv3.DeniedHttpResponse{}}},
	} {
		text, err := proto.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		if IsAllow(text) != Allows(res) {
			t.Errorf("%s: %v", name, IsAllow(text))
		}
	}
	if IsAllow([]byte("\xff")) {
		t.Error("what is no message allows nothing")
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	v := []float64{5, 1, 4, 2, 3}
	if Median(v) != 3 || Quantile(v, .99) != 5 || Quantile(v, 1) != 5 || Quantile(nil, .5) != 0 {
		t.Error(v)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	var log tail
	for range 3 * tailSize {
		_, _ = log.Write([]byte("x"))
	}
	_, _ = log.Write([]byte("end"))
	if text := log.String(); len(text) > 2*tailSize || !strings.HasSuffix(text, "xend") {
		t.Error(len(text))
	}
}

// What the kernel counts for a process grows with its work.
func TestCPU(t *testing.T) {
	t.Parallel()
	me, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Memory(me.Pid, "VmRSS"); err != nil {
		t.Skip("it reads /proc: ", err)
	}
	p := &Process{cmd: &exec.Cmd{Process: me}}
	before, err := p.CPU()
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 30*time.Millisecond; {
		continue
	}
	if after, err := p.CPU(); err != nil || after < before {
		t.Errorf("%v, before %v, %v", after, before, err)
	}
}
