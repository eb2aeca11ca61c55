package test

r if { x := input.a; y := x.b; not y.c }

# ----
# reads type of input.a
# reads type of input.a.b
# reads input.a.b.c
