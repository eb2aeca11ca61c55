package test

f({"b": x}) := x
g("GET", _) := 1
g("POST", y) := y.c
r := f(input.a)
s := g(input.method, input.a.b)

# ----
# reads input.a
# reads input.method
