package test

r if input.k in input.list
s if "a", input.b in input.x

# ----
# reads input.b
# reads input.k
# reads input.list
# reads input.x
