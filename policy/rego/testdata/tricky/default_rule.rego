package test

default d := 3
d := input.b if input.a

# ----
# reads input.a
# reads input.b
