package test

allow if { x := input.a; every k, v in x.b { v != 1; k != input.k } }

# ----
# reads type of input.a
# reads input.a.b
# reads input.k
