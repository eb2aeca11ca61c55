package test

f(x) := x.method
g(x) := x.path
inner := f(input.attributes.request.http)
r := v if { v := inner with data.test.f as g }
direct := v if { v := f(input.a) with data.test.f as g }

# ----
# reads input.a
# reads input.attributes.request.http
