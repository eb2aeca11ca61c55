package test

allow if input.a[input.key].c == 1

# ----
# reads input.a
# reads input.key
