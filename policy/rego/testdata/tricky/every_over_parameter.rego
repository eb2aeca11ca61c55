package test

all_ok(xs) if every x in xs { x.ok == true }
r if all_ok(input.list)
s if { y := input.a; every k in ["b"] { y[k] } }

# ----
# reads input.a
# reads input.list
