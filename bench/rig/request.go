package rig

import (
	"encoding/base64"
	"fmt"
	"maps"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

// Role is a role of RoleTable that may see Path, and Host the host of all requests.
const (
	Role = "role7"
	Path = "/api/v1/things7/42"
	Host = "api.bench.test"
)

// Request is a question as Envoy asks it for a browser's call, encoded. The fields
// come on top of those of the browser; changes may change the rest.
func Request(fields map[string]string, changes ...func(*authv3.AttributeContext)) []byte {
	all := map[string]string{
		":method": "GET", ":path": Path + "?page=2", ":authority": Host, ":scheme": "https",
		"user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36",
		"accept":     "application/json, text/plain, */*", "accept-language": "en-US,en;q=0.9", "accept-encoding": "gzip, deflate, br",
		"x-request-id": "2f0c9a1e-6f0b-4f6a-9c58-1d2a3b4c5d6e", "x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.5",
		"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "referer": "https://app.bench.test/things",
	}
	maps.Copy(all, fields)
	about := &authv3.AttributeContext{
		Source: peer("192.0.2.5", 40000), Destination: peer("10.0.0.7", 8443),
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1234567890", Method: "GET", Scheme: "https", Host: Host, Path: all[":path"], Protocol: "HTTP/2", Headers: all,
		}},
	}
	for _, change := range changes {
		change(about)
	}
	out, err := proto.Marshal(&authv3.CheckRequest{Attributes: about})
	if err != nil {
		panic(err)
	}
	return out
}

func peer(ip string, port uint32) *authv3.AttributeContext_Peer {
	return &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}}
}

// From has the request come from an address.
func From(ip string) func(*authv3.AttributeContext) {
	return func(a *authv3.AttributeContext) { a.Source.Address = peer(ip, 40000).Address }
}

// RoleTable is RBAC as users write it: roles with permissions, and routes that
// ask for them.
func RoleTable(roles int) map[string]any {
	table, routes := map[string]any{}, []any{}
	for i := range roles {
		permission := fmt.Sprintf("things%d.read", i)
		table[fmt.Sprintf("role%d", i)] = map[string]any{"permissions": []string{permission, fmt.Sprintf("things%d.write", i)}}
		routes = append(routes, map[string]any{"methods": []string{"GET"}, "path": fmt.Sprintf("/api/v1/things%d/*", i), "permission": permission})
	}
	return map[string]any{"roles": table, "routes": routes}
}

// Encode is base64url without padding, as JOSE has it.
func Encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
