// Package envoy holds sample configurations of Envoy. Its tests read them into
// Envoy's own types, so that they are checked also where there is no Envoy; the
// end-to-end tests of cmd/postern run them.
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
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Each sample is well-formed, every extension in it is one that Envoy has, and each
// message keeps Envoy's own rules.
func TestSample(t *testing.T) {
	t.Parallel()
	for name, extensions := range map[string]int{"envoy.yaml": 6, "mtls.yaml": 6} {
		found := load(t, name)
		if len(found) != extensions {
			t.Errorf("%s holds %d kinds of extensions: %v", name, len(found), slices.Collect(maps.Keys(found)))
		}
		hcm := managerIn(found)
		if !hcm.GetNormalizePath().GetValue() || !hcm.GetMergeSlashes() || !hcm.GetUseRemoteAddress().GetValue() ||
			hcm.GetPathWithEscapedSlashesAction() != hcmv3.HttpConnectionManager_REJECT_REQUEST {
			t.Errorf("%s: Envoy does not read paths and addresses as Postern does: %v", name, hcm)
		}
		filter, ok := found["envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"].(*extauthzv3.ExtAuthz)
		if !ok || filter.GetFailureModeAllow() || !filter.GetEncodeRawHeaders() || filter.GetGrpcService() == nil || !filter.GetIncludePeerCertificate() {
			t.Errorf("%s: Envoy fails open, joins header fields, or shows no certificate: %v", name, filter)
		}
		if last := hcm.GetHttpFilters()[len(hcm.GetHttpFilters())-1].GetName(); !strings.HasSuffix(last, ".router") || len(hcm.GetHttpFilters()) != 2 {
			t.Errorf("%s: a filter stands between the question and the service: %v", name, hcm.GetHttpFilters())
		}
	}
}

// C-07: of clients with certificates, Envoy says itself what they showed, and shows it.
func TestCertificateSample(t *testing.T) {
	t.Parallel()
	found := load(t, "mtls.yaml")
	hcm := managerIn(found)
	if details := hcm.GetSetCurrentClientCertDetails(); hcm.GetForwardClientCertDetails() != hcmv3.HttpConnectionManager_SANITIZE_SET || !details.GetCert() || !details.GetChain() {
		t.Error("x-forwarded-client-cert is not Envoy's own, or lacks the certificate: ", hcm)
	}
	client, ok := found["envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"].(*tlsv3.DownstreamTlsContext)
	if !ok || !client.GetRequireClientCertificate().GetValue() || client.GetCommonTlsContext().GetValidationContext().GetTrustedCa() == nil {
		t.Error("clients need no certificate: ", client)
	}
	postern, ok := found["envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"].(*tlsv3.UpstreamTlsContext)
	if check := postern.GetCommonTlsContext().GetValidationContext(); !ok || check.GetTrustedCa() == nil || len(check.GetMatchTypedSubjectAltNames()) == 0 {
		t.Error("anybody can be Postern: ", postern)
	}
}

func managerIn(found map[protoreflect.FullName]proto.Message) *hcmv3.HttpConnectionManager {
	hcm, _ := found["envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"].(*hcmv3.HttpConnectionManager)
	return hcm
}

// load reads a sample into Envoy's own types and returns the extensions in it.
func load(t *testing.T, name string) map[protoreflect.FullName]proto.Message {
	t.Helper()
	text, err := os.ReadFile(name)
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
	return found
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
