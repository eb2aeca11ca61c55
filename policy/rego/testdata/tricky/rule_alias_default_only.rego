package test

default http := {"method": "GET"}
http := input.a
allow if http.method == "GET"

# ----
# reads input.a
