package test

# one step with a NUL in it, not two steps
r := input["a\u0000b"]

# ----
# reads input["a\x00b"]
