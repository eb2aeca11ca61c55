package test

r := input.list[-1]
s := input.roles[1.0]

# ----
# reads input.list
# reads input.roles
