package test

inner := [input.a.b, input.a.x]
t := v if { v := inner with input.a.b as 7 }
only := input.a.c
u := v if { v := only with input.a.b as 7 }

# ----
# reads type of input.a
# reads input.a.b
# reads input.a.c
# reads input.a.x
