package main

import (
	"net"
	"strconv"
	"strings"
)

// deployed is something in deploy/ that init writes.
type deployed struct {
	name, short string
	// files are paths below deploy/ and, after "=>", where they are written to. A
	// directory is written whole.
	files []string
	// standard is the value of each parameter in the files, and places is where it stands.
	standard map[string]string
	places   map[string][]place
	// set are parameters that the sample is written with, unless flags say otherwise.
	set map[string]string
	// service is the parameter that has to name a Service of Kubernetes, if there is one.
	service string
	// start is which listener a configuration beside it needs: grpc or gateway; "" for none.
	start string
	// secrets says that it needs a pepper and a keys file.
	secrets bool
	// next is what to do with it. {listen} is where it listens, $KEY the demo
	// key, and {program} this program.
	next []string
}

// place is where a parameter stands in a file: text in which {addr}, {host}, {port},
// {value}, {flow} (the host within { } of YAML) and {type} (Envoy's way to find a host)
// are parts of it.
type place struct{ file, text string }

// with is the text with a value in it.
func (p place) with(value string) string {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		host = value
	}
	kind, flow := "STRICT_DNS", host
	if isIP(host) {
		kind = "STATIC"
	}
	if strings.Contains(host, ":") {
		flow = strconv.Quote(host)
	}
	return strings.NewReplacer("{addr}", value, "{value}", value, "{host}", host, "{port}", port, "{flow}", flow, "{type}", kind).Replace(p.text)
}

// inside is where the gateway of the Compose project listens, in its container: no flag's.
const inside = "inside"

var envoyPlaces = map[string][]place{
	"listen":  {{"envoy.yaml", "address: {flow}, port_value: {port} }"}, {"envoy.yaml", "Envoy :{port} "}},
	"app":     {{"envoy.yaml", "address: {flow}, port_value: {port} }"}, {"envoy.yaml", "service :{port}\n"}, {"envoy.yaml", "- name: service\n      type: {type}\n"}},
	"postern": {{"envoy.yaml", "address: {flow}, port_value: {port} }"}, {"envoy.yaml", "Postern :{port}\n"}, {"envoy.yaml", "- name: postern\n      type: {type}\n"}},
}

var envoyStandard = map[string]string{"listen": "127.0.0.1:10000", "app": "127.0.0.1:8080", "postern": "127.0.0.1:9191"}

var gatewayStandard = map[string]string{"listen": "127.0.0.1:8080", "app": "127.0.0.1:8081", "postern": "127.0.0.1:9193"}

var samples = []deployed{
	{
		name: "envoy", short: "Envoy, which asks over gRPC (ext_authz)", start: "grpc",
		files: []string{"envoy/envoy.yaml", "envoy/try.sh"}, standard: envoyStandard, places: envoyPlaces,
		next: []string{
			"{program} serve -c postern.yaml", "envoy -c envoy.yaml", "curl -i http://{listen}/ -H \"x-api-key: $KEY\"",
			"# or all of it at once, with a service of its own, and what a client sees: ./try.sh",
		},
	},
	{
		name: "envoy-mtls", short: "Envoy for clients with certificates", files: []string{"envoy/mtls.yaml"},
		next: []string{"# certificates to try it with, and what postern.yaml says of them: see the top of mtls.yaml", "envoy -c mtls.yaml"},
	},
	{
		name: "envoy-gateway", short: "Envoy Gateway: a SecurityPolicy for every route of a Gateway", files: []string{"envoy-gateway/envoy-gateway.yaml"}, service: "app",
		standard: map[string]string{"app": "app:8080", "host": "shop.example.com"},
		places: map[string][]place{
			"app":  {{"envoy-gateway.yaml", "{ name: {host}, port: {port} }"}},
			"host": {{"envoy-gateway.yaml", "hostname: {value}\n"}, {"envoy-gateway.yaml", "hostnames: [{value}]"}},
		},
		next: []string{"# Postern itself: {program} init kubernetes", "# the namespaces and certificates that it needs: see the top of envoy-gateway.yaml", "kubectl apply -f envoy-gateway.yaml"},
	},
	{
		name: "istio", short: "Istio: an extension provider, and a CUSTOM AuthorizationPolicy", files: []string{"istio"},
		standard: map[string]string{"postern": "postern.postern.svc.cluster.local:9191"},
		places:   map[string][]place{"postern": {{"meshconfig.yaml", "service: {host}\n          port: {port}\n"}}},
		next:     []string{"# Postern itself, with the postern.yaml beside this: {program} init kubernetes", "istioctl install -f meshconfig.yaml", "kubectl apply -f istio.yaml"},
	},
	{
		name: "nginx", short: "nginx, by auth_request", start: "gateway", files: []string{"nginx/nginx.conf"}, standard: gatewayStandard,
		places: map[string][]place{
			"listen": {{"nginx.conf", "listen {addr};"}}, "app": {{"nginx.conf", "server {addr};"}}, "postern": {{"nginx.conf", "server {addr};"}, {"nginx.conf", "listen: {gateway: {addr}}"}},
		},
		next: []string{"{program} serve -c postern.yaml", "nginx -c $PWD/nginx.conf", "curl -i http://{listen}/ -H \"x-api-key: $KEY\""},
	},
	{
		name: "traefik", short: "Traefik, by forwardAuth", start: "gateway", files: []string{"traefik/dynamic.yaml"}, standard: gatewayStandard,
		places: map[string][]place{
			"listen": {{"dynamic.yaml", "--entrypoints.web.address={addr}"}}, "app": {{"dynamic.yaml", "url: http://{addr}"}}, "postern": {{"dynamic.yaml", "address: http://{addr}/"}},
		},
		next: []string{
			"{program} serve -c postern.yaml", "traefik --entrypoints.web.address={listen} --providers.file.filename=dynamic.yaml", "curl -i http://{listen}/ -H \"x-api-key: $KEY\"",
		},
	},
	{
		name: "caddy", short: "Caddy, by forward_auth", start: "gateway", files: []string{"caddy/Caddyfile"}, standard: gatewayStandard,
		places: map[string][]place{
			"listen": {{"Caddyfile", ":{port} {\n\tbind {host}\n"}}, "app": {{"Caddyfile", "reverse_proxy {addr}"}}, "postern": {{"Caddyfile", "forward_auth {addr} {"}, {"Caddyfile", "listen: {gateway: {addr}}"}},
		},
		next: []string{"{program} serve -c postern.yaml", "caddy run --config Caddyfile", "curl -i http://{listen}/ -H \"x-api-key: $KEY\""},
	},
	{
		name: "haproxy", short: "HAProxy 2.6 or later, by Lua", start: "gateway", files: []string{"haproxy/haproxy.cfg", "haproxy/postern.lua"}, standard: gatewayStandard,
		places: map[string][]place{
			"listen": {{"haproxy.cfg", "bind {addr}"}}, "app": {{"haproxy.cfg", "server app {addr}"}}, "postern": {{"haproxy.cfg", "POSTERN_URL http://{addr}/"}, {"haproxy.cfg", "listen: {gateway: {addr}}"}},
		},
		next: []string{"{program} serve -c postern.yaml", "haproxy -f haproxy.cfg", "curl -i http://{listen}/ -H \"x-api-key: $KEY\""},
	},
	{
		name: "compose", short: "Docker Compose: Envoy, Postern and an application", secrets: true,
		files:    []string{"compose/compose.yaml", "compose/postern.yaml", "envoy/envoy.yaml", "start/policy => policy"},
		standard: map[string]string{"listen": "127.0.0.1:10000", inside: envoyStandard["listen"], "app": envoyStandard["app"], "postern": envoyStandard["postern"], "image": "postern"},
		set:      map[string]string{inside: "0.0.0.0:10000", "app": "app:8080", "postern": "postern:9191"},
		places: map[string][]place{
			"listen": {{"compose.yaml", `["{addr}:10000"]`}, {"compose.yaml", "http://{addr}/"}},
			inside:   envoyPlaces["listen"], "app": envoyPlaces["app"], "postern": envoyPlaces["postern"], "image": {{"compose.yaml", "    image: {value}\n    volumes:"}},
		},
		next: []string{
			"docker build -f deploy/docker/Dockerfile -t postern .   # in the sources of Postern, unless --image names yours", "POSTERN_UID=$(id -u) docker compose up",
			"curl -i http://{listen}/ -H \"x-api-key: $KEY\"",
		},
	},
	{
		name: "kubernetes", short: "Kubernetes: a kustomize base, and an overlay with PostgreSQL", files: []string{"kubernetes => ."}, secrets: true,
		standard: map[string]string{"image": "registry.example.com/postern"},
		places: map[string][]place{"image": {
			{"base/kustomization.yaml", "newName: {value},"}, {"overlays/production/kustomization.yaml", "name: {value},"},
		}},
		next: []string{
			"kubectl create namespace postern", "kubectl -n postern create secret generic postern-secrets --from-file=pepper --from-file=keys.yaml",
			"kubectl -n postern create secret tls postern-tls --cert=server.pem --key=server.key   # for postern.postern.svc", "kubectl apply -k base",
		},
	},
	{
		name: "helm", short: "a Helm chart", files: []string{"helm => ."}, secrets: true,
		standard: map[string]string{"image": "registry.example.com/postern"},
		places:   map[string][]place{"image": {{"postern/values.yaml", "repository: {value}\n"}}},
		next: []string{
			"kubectl create namespace postern", "kubectl -n postern create secret generic postern-secrets --from-file=pepper --from-file=keys.yaml",
			"kubectl -n postern create secret tls postern-tls --cert=server.pem --key=server.key   # for postern.postern.svc", "helm install postern ./postern -n postern",
		},
	},
	{
		name: "systemd", short: "a service of systemd, with no more rights than it needs", files: []string{"systemd", "start/policy => policy"},
		next: []string{"# what goes where: see the top of postern.service", "systemd-analyze security --offline=true postern.service"},
	},
	{
		name: "prometheus", short: "Prometheus: what to scrape, alerts, objectives, and tests of them", files: []string{"prometheus"},
		standard: map[string]string{"postern": "127.0.0.1:9192"}, places: map[string][]place{"postern": {{"prometheus.yaml", `"{addr}"`}}},
		next: []string{"promtool test rules rules_test.yaml", "prometheus --config.file=prometheus.yaml"},
	},
	{
		name: "grafana", short: "a dashboard for Grafana", files: []string{"grafana"},
		next: []string{"# Dashboards, New, Import: dashboard.json"},
	},
}

// starter is what init writes without a sample.
var starter = deployed{
	name: "a configuration", start: "grpc",
	next: []string{"{program} serve -c postern.yaml", "{program} check https://app.test/ -H \"x-api-key: $KEY\""},
}
