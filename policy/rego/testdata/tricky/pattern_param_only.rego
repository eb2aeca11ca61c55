package test

f({"b": x}) := 1
r := f(input.a)

# ----
# reads input.a
