package test

r := object.get(input.a, "b", "none")
s := object.get(input.a.b, "d", input.b)

# ----
# reads type of input.a
# reads input.a.b
# reads input.b
