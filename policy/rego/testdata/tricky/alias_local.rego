package test

allow if { x := input.a; x.b.c == 1 }

# ----
# reads type of input.a
# reads input.a.b.c
