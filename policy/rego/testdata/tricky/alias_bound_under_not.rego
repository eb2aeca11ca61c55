package test

r if not f(input.a)
f(x) if { y := x.b; y.c == 1 }

# ----
# reads type of input.a
# reads type of input.a.b
# reads input.a.b.c
