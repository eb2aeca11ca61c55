package test

f(x) := x.b
r := f(input.a)
all := data.test.lib

# ----
# reads type of input.a
# reads input.a.b
