package test

f(x) := 1 if { x.b } else := 2 if { x.method } else := 3
r := f(input.a)

# ----
# reads type of input.a
# reads input.a.b
# reads input.a.method
