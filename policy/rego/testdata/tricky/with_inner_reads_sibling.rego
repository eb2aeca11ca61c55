package test

inner := [input.a.b, input.a.q, input.b]
r := v if { v := inner with input.a.b.z as 7 with input.b.c as 3 }

# ----
# reads type of input.a
# reads input.a.b
# reads input.a.q
# reads input.b
