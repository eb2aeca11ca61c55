package test

inner := input.a
allow if inner == 1 with input.a as input.b
t := v if { v := inner with input as {"a": input.k} }

# ----
# reads input.a
# reads input.b
# reads input.k
