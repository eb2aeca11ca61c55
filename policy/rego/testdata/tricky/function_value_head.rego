package test

f(x) := {"v": x, "m": x.method}
r := f(input.attributes.request.http).m

# ----
# reads input.attributes.request.http
