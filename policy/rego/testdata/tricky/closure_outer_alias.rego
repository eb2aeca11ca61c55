package test

r if { x := input.a; count([1 | x.b.c == 1]) > 0; not x.b.q }

# ----
# reads type of input.a
# reads input.a.b.c
# reads input.a.b.q
