package test

allow if { x := input; x.a.b.c == 1; not x.b }

# ----
# reads input.a.b.c
# reads input.b
