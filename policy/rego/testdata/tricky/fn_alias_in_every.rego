package test

f(x) if { every v in x.d { v > 0 } }
r := f(input.a.b)

# ----
# reads type of input.a.b
# reads input.a.b.d
