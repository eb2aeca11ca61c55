// Package deploy holds samples of everything that Postern is run with: gateways that ask
// it, places that it runs in, and what watches it. They are files to read and to copy,
// and `postern init` writes them from here.
//
// None of them is a template. Each works as it stands, with addresses on this machine or
// names in example.com, and is loaded, checked or run by a test as it stands; init
// exchanges exactly those addresses and names. The tests are in cmd/postern.
package deploy

import "embed"

// Files are the samples, by their path below deploy/.
//
//go:embed caddy/Caddyfile compose/*.yaml
//go:embed envoy/*.yaml envoy/try.sh envoy-gateway/*.yaml istio/*.yaml grafana/*.json haproxy/haproxy.cfg haproxy/postern.lua
//go:embed all:helm kubernetes nginx/nginx.conf prometheus/*.yaml start systemd/postern.service systemd/postern.yaml traefik/*.yaml
var Files embed.FS
