package test

http := input.attributes.request.http
allow if http.method == "GET"
allow if { not http.path; http.headers }

# ----
# reads input.attributes.request.http
