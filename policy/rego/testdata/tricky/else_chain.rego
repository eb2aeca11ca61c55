package test

r := 1 if input.a.b.c == 1 else := 2 if input.b == 2 else := input.k

# ----
# reads input.a.b.c
# reads input.b
# reads input.k
