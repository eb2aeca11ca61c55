package test

names contains x.name if some x in input.list
by[k] := x.b if { x := input.a; k := input.k }
flag[input.key].on := true
r := by.a

# ----
# reads type of input.a
# reads input.a.b
# reads input.k
# reads input.key
# reads input.list
