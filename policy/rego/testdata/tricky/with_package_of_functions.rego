package test

# replaces a package that holds a function
lib.f(x) := x.b
inner := lib.f(input.a)
r := v if { v := inner with data.test.lib as {"f": 1} }

# ----
# reads input.a
