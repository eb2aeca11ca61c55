package test

default http := {"method": "GET"}
http := input.attributes.request.http
allow if http.method == "GET"

# ----
# reads input.attributes.request.http
