package test

allow if { [input.k, y] = ["a", input.b]; y == 2 }

# ----
# reads input.b
# reads input.k
