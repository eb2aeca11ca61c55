package test

r := object.get(input.a, "b", x.c) if { x := input.b }

# ----
# reads type of input.a
# reads input.a.b
# reads type of input.b
# reads input.b.c
