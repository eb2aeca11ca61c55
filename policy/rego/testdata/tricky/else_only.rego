package test

r := 1 if input.a else := 2 if input.b

# ----
# reads input.a
# reads input.b
