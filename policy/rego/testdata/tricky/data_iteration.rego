package test

# a variable in the reference reaches both rules of lib
lib.one := input.a
lib.two.deep := input.b
r := [x | x := data.test.lib[_]]

# ----
# reads input.a
# reads input.b
