package test

f(v) if { v == input.b }
allow if f(1)

# ----
# reads input.b
