package test

allow if { not input.a.b.c == 1; not input.b }

# ----
# reads input.a.b.c
# reads input.b
