package test

n := count([1 | x := input.a; not x.b])

# ----
# reads type of input.a
# reads input.a.b
