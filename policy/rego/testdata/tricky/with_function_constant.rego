package test

f(x) := x.b
inner := f(input.a)
r := v if { v := inner with f as 7 }

# ----
# reads input.a
