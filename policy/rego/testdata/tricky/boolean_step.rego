package test

r := input.a[true]
s := input.b[null]

# ----
# reads input.a
# reads input.b
