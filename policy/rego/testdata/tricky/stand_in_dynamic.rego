# query data.test.allow
package test

http := input.attributes.request.http
allow if http.headers[input.k]

# ----
# reads input.attributes.request.http.headers
# reads input.k
