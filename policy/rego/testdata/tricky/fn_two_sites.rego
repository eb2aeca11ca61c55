package test

has(o, k) if o[k]
m(o) := o.method
allow if has(input.a, "b")
p := m(input.attributes.request.http)
q := m(input.context.request.http)

# ----
# reads input.a
# reads type of input.attributes.request.http
# reads input.attributes.request.http.method
# reads type of input.context.request.http
# reads input.context.request.http.method
