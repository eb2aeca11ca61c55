package test

inner := input.z
f(x) := v if { v := inner with input.z as x }
r := f(input.a)

# ----
# reads input.a
# reads input.z
