package test

f(v) := v.c
allow if { y := f(input.a.b); y == input.b }
g(1) := 2
also if { y := g(1); y == input.b }
also2 if { input.b == g(1) }

# ----
# reads type of input.a.b
# reads input.a.b.c
# reads input.b
