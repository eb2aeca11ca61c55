package test

g(1) := 2
allow if { input.b == g(1) }

# ----
# reads input.b
