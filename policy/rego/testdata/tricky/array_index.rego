package test

r := input.list[0]
s := input.a.b.d[1]
t if input.list[input.b]

# ----
# reads input.a.b.d[1]
# reads input.b
# reads input.list
