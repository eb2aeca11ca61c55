package test

r := data.other[input.k]

# ----
# reads input.k
