package bundle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
)

const layerType = "application/vnd.oci.image.layer.v1.tar+gzip"

// image is a manifest with the bundle as its second layer, as tools push it.
func image(raw []byte) []byte {
	text, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + digestOf([]byte("{}")), "size": 2},
		"layers": []any{
			map[string]any{"mediaType": layerType, "digest": "sha256:" + digestOf(raw), "size": len(raw)},
		},
	})
	if err != nil {
		panic(err)
	}
	return text
}

// fakeRegistry serves one image, and may ask for a token first.
type fakeRegistry struct {
	raw, manifest []byte
	blob          []byte // what it sends for the layer
	realm         string // where tokens are; empty: none are asked for
	asked         []string
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked = append(f.asked, r.URL.Path)
	if r.URL.Path == "/token" {
		if user, password, _ := r.BasicAuth(); user != "ann" || password != "hush" || r.URL.Query().Get("scope") != "repository:policies/shop:pull" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(`{"token":"good"}`))
		return
	}
	if f.realm != "" && r.Header.Get("Authorization") != "Bearer good" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry.test"`, f.realm))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch path := strings.TrimPrefix(r.URL.Path, "/v2/policies/shop/"); {
	case strings.HasPrefix(path, "manifests/"):
		_, _ = w.Write(f.manifest)
	case path == "blobs/sha256:"+digestOf(f.raw):
		_, _ = w.Write(f.blob)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func fromRegistry(t testing.TB, address string, credentials bundle.Credentials) *world {
	return served(t, "", func(b *bundle.Bundle) {
		b.OCI, b.InsecureHTTP, b.Credentials = address, true, credentials
	})
}

// A bundle in a registry: tokens, digests, indexes, and registries that lie.
func TestRegistry(t *testing.T) {
	t.Parallel()
	one := allowing("1").signedBy(t, rsaSigner())
	ann := bundle.Credentials{Basic: &bundle.Basic{Username: "ann", Password: policy.NewSecret("hush")}}
	index := []byte(fmt.Sprintf(`{"manifests":[{"digest":"sha256:%s"}]}`, digestOf(image(one))))
	for name, c := range map[string]struct {
		registry fakeRegistry
		ref      string
		says     string
	}{
		"plain":           {fakeRegistry{raw: one, blob: one, manifest: image(one)}, ":1", ""},
		"latest":          {fakeRegistry{raw: one, blob: one, manifest: image(one)}, "", ""},
		"by digest":       {fakeRegistry{raw: one, blob: one, manifest: image(one)}, "@sha256:" + digestOf(image(one)), ""},
		"with a token":    {fakeRegistry{raw: one, blob: one, manifest: image(one), realm: "own"}, ":1", ""},
		"token elsewhere": {fakeRegistry{raw: one, blob: one, manifest: image(one), realm: "https://evil.test/token"}, ":1", "allowed_hosts"},
		"other digest":    {fakeRegistry{raw: one, blob: one, manifest: image(one)}, "@sha256:" + digestOf(one), "other bytes"},
		"other layer":     {fakeRegistry{raw: one, blob: allowing("2").signedBy(t, rsaSigner()), manifest: image(one)}, ":1", "other bytes"},
		"other image":     {fakeRegistry{raw: one, blob: one, manifest: index}, ":1", "other bytes"},
		"no layer":        {fakeRegistry{manifest: []byte(`{"layers":[{"mediaType":"text/plain"}]}`)}, ":1", "no layer"},
		"odd digest":      {fakeRegistry{manifest: []byte(`{"layers":[{"mediaType":"` + layerType + `","digest":"sha256:../x"}]}`)}, ":1", "no layer"},
		"huge layer":      {fakeRegistry{manifest: bytes.Replace(image(one), []byte(fmt.Sprintf(`"size":%d}]`, len(one))), []byte(`"size":99999999}]`), 1)}, ":1", "over a limit"},
		"no JSON":         {fakeRegistry{manifest: []byte("<html>")}, ":1", "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := c.registry
			server := httptest.NewServer(&registry)
			t.Cleanup(server.Close)
			if registry.realm == "own" {
				registry.realm = server.URL + "/token"
			}
			credentials := bundle.Credentials{}
			if registry.realm != "" {
				credentials = ann
			}
			w := fromRegistry(t, strings.TrimPrefix(server.URL, "http://")+"/policies/shop"+c.ref, credentials)
			err := w.Poll(context.Background())
			if c.says != "" {
				w.expect(err, "", bundle.FailedDownload, c.says)
				return
			}
			w.expect(err, "1", "", "")
			registry.asked = nil
			w.expect(w.Poll(context.Background()), "1", "", "")
			if len(registry.asked) != 1 {
				t.Errorf("what did not change is asked for: %v", registry.asked)
			}
		})
	}
}

// The real thing: the distribution project's registry.
func TestRealRegistry(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("registry")
	if err != nil {
		t.Skip("no registry is installed; go install github.com/distribution/distribution/v3/cmd/registry@v3.1.2 to run this test")
	}
	dir, address := t.TempDir(), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := filepath.Join(dir, "config.yml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/store}}\nhttp: {addr: %s}\n", dir, address), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, binary, "serve", config)
	server.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	must(t, server.Start())
	t.Cleanup(func() { cancel(); _ = server.Wait() })
	waitFor(t, address)
	push := func(raw []byte) {
		for _, blob := range [][]byte{raw, []byte("{}")} {
			response := send(t, http.MethodPost, "http://"+address+"/v2/policies/shop/blobs/uploads/", nil, "")
			at := response.Header.Get("Location")
			send(t, http.MethodPut, at+"&digest=sha256:"+digestOf(blob), blob, "application/octet-stream")
		}
		send(t, http.MethodPut, "http://"+address+"/v2/policies/shop/manifests/1", image(raw), "application/vnd.oci.image.manifest.v1+json")
	}
	push(allowing("1").signedBy(t, rsaSigner()))
	w := fromRegistry(t, address+"/policies/shop:1", bundle.Credentials{})
	w.expect(w.Poll(ctx), "1", "", "")
	w.expect(w.Poll(ctx), "1", "", "")
	push(allowing("2").signedBy(t, rsaSigner()))
	w.expect(w.Poll(ctx), "2", "", "")
	push(allowing("1").signedBy(t, rsaSigner()))
	w.expect(w.Poll(ctx), "2", bundle.FailedRollback, "older")
}

func send(t testing.TB, method, url string, body []byte, kind string) *http.Response {
	t.Helper()
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	must(t, err)
	request.Header.Set("Content-Type", kind)
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	_ = response.Body.Close()
	if response.StatusCode >= 300 {
		t.Fatalf("%s %s: %s", method, url, response.Status)
	}
	return response
}
