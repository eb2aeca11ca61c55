package test

f(x) := x.b
g(y) := f(y)
r := f(input.a)
s := g(input.x)

# ----
# reads type of input.a
# reads input.a.b
# reads type of input.x
# reads input.x.b
