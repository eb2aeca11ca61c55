package test

a if { some x; x = input.a; x.b }
b if { some x; x = input.list[_]; x == input.k }

# ----
# reads type of input.a
# reads input.a.b
# reads input.k
# reads input.list
