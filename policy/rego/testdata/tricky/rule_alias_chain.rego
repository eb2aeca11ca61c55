package test

a := input.a
b := a.b
allow if b.c == 1

# ----
# reads input.a
