# query data.test.allow
package test

http := input.attributes.request.http
get(h) if h.method == "GET"
allow if get(http)

# ----
# reads type of input.attributes.request.http
# reads input.attributes.request.http.method
