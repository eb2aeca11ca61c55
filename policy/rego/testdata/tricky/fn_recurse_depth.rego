package test

f1(x) := f2(x.request)
f2(x) := f3(x.http)
f3(x) := x.method
r := f1(input.attributes)

# ----
# reads type of input.attributes
# reads type of input.attributes.request
# reads type of input.attributes.request.http
# reads input.attributes.request.http.method
