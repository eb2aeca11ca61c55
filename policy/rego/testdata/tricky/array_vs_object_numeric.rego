package test

r := input.a.b.d[0]
s := input.a["0"]

# ----
# reads input.a[0]
# reads input.a.b.d[0]
