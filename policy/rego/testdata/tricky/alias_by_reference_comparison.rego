package test

r if { x := input.a; y := input.b; x == y }

# ----
# reads input.a
# reads input.b
