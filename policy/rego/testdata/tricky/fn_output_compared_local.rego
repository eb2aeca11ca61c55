package test

g(1) := 2
allow if { y := g(1); y == input.b }

# ----
# reads input.b
