# query data.test.allow
package test

http := input.attributes.request.http
allow if object.get(http.headers, "authorization", "") == "Basic YWxpY2U6cGFzc3dvcmQ="

# ----
# reads type of input.attributes.request.http.headers
# reads input.attributes.request.http.headers.authorization
