package test

r := object.get(input, ["a", "b", "c"], "none")

# ----
# reads input.a.b.c
