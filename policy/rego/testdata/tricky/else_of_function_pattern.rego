package test

f(x, 1) := x.b
f(x, 2) := x.q if { false } else := x.c
r := f(input.a, input.b)

# ----
# reads type of input.a
# reads input.a.b
# reads input.a.c
# reads input.a.q
# reads input.b
