package test

inner := input.b
r := v if { x := input.a; v := inner with input as x }

# ----
# reads input.a
# reads input.b
