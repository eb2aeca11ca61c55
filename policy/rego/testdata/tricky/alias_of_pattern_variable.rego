package test

# y is bound by the pattern, so y == input.b compares
f([y, _]) if { y == input.b }
r := f(input.list)

# ----
# reads input.b
# reads input.list
