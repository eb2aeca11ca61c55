package test

paths contains p if { walk(input.a, [p, v]); v == 1 }

# ----
# reads input.a
