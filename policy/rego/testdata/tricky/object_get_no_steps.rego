package test

r := object.get(input.a, [], "none")

# ----
# reads input.a
