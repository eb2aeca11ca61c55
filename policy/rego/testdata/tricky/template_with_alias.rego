package test

r := $"{x.b} and {y}" if { x := input.a; y := input.k }

# ----
# reads type of input.a
# reads input.a.b
# reads input.k
