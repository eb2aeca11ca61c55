package test

r := {k: [v | v := x[k]] | x := input.x; some k in object.keys(x)}

# ----
# reads input.x
