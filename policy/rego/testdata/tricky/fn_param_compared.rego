package test

f(v) if { v == input.a.b.c }
allow if f(input.b)
allow if f(1)

# ----
# reads input.a.b.c
# reads input.b
