package test

m := {"a": 1, "x": 2}
r := m[input.k]

# ----
# reads input.k
