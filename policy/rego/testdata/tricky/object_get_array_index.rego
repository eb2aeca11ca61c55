package test

r := object.get(input, ["a", "b", "d", 1], "none")
s := object.get(input.list, 0, "none")

# ----
# reads input.a.b.d[1]
# reads type of input.list
# reads input.list[0]
