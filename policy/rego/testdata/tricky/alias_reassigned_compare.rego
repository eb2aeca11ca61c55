package test

allow if { x = input.a; x = input.b }

# ----
# reads input.a
# reads input.b
