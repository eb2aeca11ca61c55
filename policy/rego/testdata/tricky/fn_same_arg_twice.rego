package test

same(x, x)
allow if same(input.a, input.b)

# ----
# reads input.a
# reads input.b
