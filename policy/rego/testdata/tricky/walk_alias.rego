package test

r := [p | x := input.a; walk(x, [p, 1])]

# ----
# reads input.a
