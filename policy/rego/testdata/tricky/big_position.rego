package test

r := input.list[99999999999]

# ----
# reads input.list
