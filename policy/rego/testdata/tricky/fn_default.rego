package test

default f(_) := false
f(x) if x.method == "GET"
r := f(input.attributes.request.http)

# ----
# reads type of input.attributes.request.http
# reads input.attributes.request.http.method
