package test

r := [1 | x := input.a; some x2 in [1]; x.b]

# ----
# reads type of input.a
# reads input.a.b
