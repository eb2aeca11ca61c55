package test

a := input.a
allow if a[input.key] == 1
vals := [v | some v in a]

# ----
# reads input.a
# reads input.key
