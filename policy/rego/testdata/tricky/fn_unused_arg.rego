package test

k(_) := 1
j(x) := 2 if { true }
r := k(input.a)
s := j(input.b)

# ----
# reads type of input.a
# reads type of input.b
