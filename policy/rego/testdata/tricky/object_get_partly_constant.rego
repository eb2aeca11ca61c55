package test

r := object.get(input.a, ["b", "d", input.b, "c"], "none")

# ----
# reads type of input.a
# reads input.a.b.d
# reads input.b
