package test

allow if { x := input.a; y := x.b; z := y.c; z == 1 }

# ----
# reads type of input.a
# reads type of input.a.b
# reads input.a.b.c
