package test

r := [y | x = input.a; y = x.b]
s := [y | x = input.b; y = x]

# ----
# reads type of input.a
# reads input.a.b
# reads input.b
