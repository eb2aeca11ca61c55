package test

r := object.get(input.a, "b", "none")

# ----
# reads type of input.a
# reads input.a.b
