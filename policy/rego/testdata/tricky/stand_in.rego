# query data.test.allow
package test

http := input.attributes.request.http
allow if { http.method == "GET"; not http.path }

# ----
# reads input.attributes.request.http.method
# reads input.attributes.request.http.path
