// Package envoy holds a sample configuration of Envoy. Its test reads the sample
// into Envoy's own types, so that it is checked also where there is no Envoy; the
// end-to-end tests of cmd/postern run it.
package envoy

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The sample is well-formed, every extension in it is one that Envoy has, and
// each message keeps Envoy's own rules.
func TestSample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	if text, err = json.Marshal(tree); err != nil {
		t.Fatal(err)
	}
	sample := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(text, sample); err != nil { // unknown fields and types are errors
		t.Fatal(err)
	}
	if err := sample.ValidateAll(); err != nil {
		t.Error(err)
	}
	found := map[protoreflect.FullName]proto.Message{}
	unpack(t, sample, found)
	if len(found) != 6 {
		t.Errorf("the sample holds %d kinds of extensions: %v", len(found), slices.Collect(maps.Keys(found)))
	}
	hcm, ok := found["envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"].(*hcmv3.HttpConnectionManager)
	if !ok || !hcm.GetNormalizePath().GetValue() || !hcm.GetMergeSlashes() || !hcm.GetUseRemoteAddress().GetValue() ||
		hcm.GetPathWithEscapedSlashesAction() != hcmv3.HttpConnectionManager_REJECT_REQUEST {
		t.Error("Envoy does not read paths and addresses as Postern does: ", hcm)
	}
	filter, ok := found["envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"].(*extauthzv3.ExtAuthz)
	if !ok || filter.GetFailureModeAllow() || !filter.GetEncodeRawHeaders() || filter.GetGrpcService() == nil {
		t.Error("Envoy fails open, or joins header fields: ", filter)
	}
	if last := hcm.GetHttpFilters()[len(hcm.GetHttpFilters())-1].GetName(); !strings.HasSuffix(last, ".router") || len(hcm.GetHttpFilters()) != 2 {
		t.Error("a filter stands between the question and the service: ", hcm.GetHttpFilters())
	}
}

// unpack collects the messages inside of every Any, and inside of those.
func unpack(t *testing.T, m proto.Message, found map[protoreflect.FullName]proto.Message) {
	t.Helper()
	err := protorange.Range(m.ProtoReflect(), func(p protopath.Values) error {
		last := p.Index(-1)
		if last.Step.Kind() != protopath.AnyExpandStep {
			return nil
		}
		inner := last.Value.Message().Interface()
		name := inner.ProtoReflect().Descriptor().FullName()
		if v, ok := inner.(interface{ ValidateAll() error }); !ok {
			t.Errorf("%s has no rules", name)
		} else if err := v.ValidateAll(); err != nil {
			t.Error(err)
		}
		found[name] = inner
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
