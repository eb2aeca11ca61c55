package test

r := object.get(input, input.k, "none")
s := object.get(input.a, ["b", input.key], "none")

# ----
# reads input
# whole: object_get_dynamic.rego:3: data.test.r reads a member of input whose name is only known at run time
