# query data.test.allow
package test

http := input.attributes.request.http
inner := http.method
allow if inner == "GET" with data.test.http as {"method": input.k}
allow if inner == "GET" with input.attributes.request as {"http": {"method": input.key}}

# ----
# reads type of input.attributes
# reads input.attributes.request.http.method
# reads input.k
# reads input.key
