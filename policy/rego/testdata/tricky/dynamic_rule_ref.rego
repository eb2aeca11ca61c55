package test

rules.a := input.a
rules.b := input.b
r := rules[input.k]

# ----
# reads input.a
# reads input.b
# reads input.k
