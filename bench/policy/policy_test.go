package main

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// An answer that is put together from two revisions is seen.
func TestConsistent(t *testing.T) {
	t.Parallel()
	answer := func(rule, data, decision string) []byte {
		said, err := structpb.NewStruct(map[string]any{"postern": map[string]any{"policy_revision": decision}})
		if err != nil {
			t.Fatal(err)
		}
		var headers []*corev3.HeaderValueOption
		for name, value := range map[string]string{"x-by-rule": rule, "x-by-data": data} {
			headers = append(headers, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}})
		}
		raw, err := proto.Marshal(&authv3.CheckResponse{
			HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: headers}}, DynamicMetadata: said,
		})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if err := consistent(answer("7", "7", "7+0123456789ab")); err != nil {
		t.Error(err)
	}
	for _, mixed := range [][3]string{{"7", "8", "7+0"}, {"7", "7", "8+0"}, {"8", "7", "7+0"}, {"", "", ""}} {
		if err := consistent(answer(mixed[0], mixed[1], mixed[2])); !errors.Is(err, errMixed) {
			t.Errorf("%v: %v", mixed, err)
		}
	}
	if err := consistent(nil); err == nil || errors.Is(err, errMixed) {
		t.Errorf("no allow: %v", err)
	}
}

// The publisher waits until there is something new, and in a hurry offers another one
// to whoever asks.
func TestPublisher(t *testing.T) {
	t.Parallel()
	p, err := newPublisher([][]byte{[]byte("first"), []byte("second")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	ask := func(etag string) string {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("If-None-Match", etag)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.Header.Get("ETag")
	}
	first := ask("")
	answered := make(chan string)
	go func() { answered <- ask(first) }()
	p.mu.Lock()
	p.advance()
	p.mu.Unlock()
	if second := <-answered; second == first || ask("") != second {
		t.Errorf("%s after %s", second, first)
	}
	p.backToBack(true)
	if now := ask(""); ask(now) == now {
		t.Error("in a hurry, it offers the same again")
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	good := settings{roles: fewRoles, rate: 10, checks: 10, callers: 1, turns: 1, turn: 1e9, long: 1e9}
	if err := good.check([]string{"roles", "bombs"}); err != nil {
		t.Error(err)
	}
	if err := good.check([]string{"role"}); err == nil || !strings.Contains(err.Error(), "fifty") {
		t.Error(err)
	}
	if err := (&settings{}).check(nil); err == nil {
		t.Error("nothing to measure with")
	}
}
