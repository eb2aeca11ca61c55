package test

a := [x | some x in input.list]
b := {x: 1 | some x in input.roles}
c := {x | x := input.a.b.d[_]}

# ----
# reads input.a.b.d
# reads input.list
# reads input.roles
