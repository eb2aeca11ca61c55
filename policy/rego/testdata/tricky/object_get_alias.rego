package test

r := object.get(x, ["b", "c"], 0) if { x := input.a }

# ----
# reads type of input.a
# reads input.a.b.c
