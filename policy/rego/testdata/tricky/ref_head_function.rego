package test

lib.of.f(x) := x.b
r := lib.of.f(input.a)

# ----
# reads type of input.a
# reads input.a.b
