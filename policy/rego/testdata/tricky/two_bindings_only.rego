package test

allow if { x = input.a; x = input.b; x.c }

# ----
# reads input.a
# reads input.b
