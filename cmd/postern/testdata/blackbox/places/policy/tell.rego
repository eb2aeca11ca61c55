package postern.authz

# Tells the upstream which route matched, and who the client is.
decision := {"allow": true, "headers": {"x-route": input.route.name, "x-client": input.request.client_ip}}
