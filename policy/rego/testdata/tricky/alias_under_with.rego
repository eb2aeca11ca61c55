package test

inner := input.b
r if { x := inner with input.b as input.k; x == "a" }
s if { x := input.a with input.a as {"z": input.k}; x.z == "a" }

# ----
# reads input.a
# reads input.b
# reads input.k
