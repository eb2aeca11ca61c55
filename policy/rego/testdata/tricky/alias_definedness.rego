package test

# x.b undefined is not the same as input.a undefined
allow if { x := input.a; not x.b }

# ----
# reads type of input.a
# reads input.a.b
