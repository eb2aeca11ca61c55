# query data.test.f(input.a, y)
package test

f(x) := x.b

# ----
# reads input.a
