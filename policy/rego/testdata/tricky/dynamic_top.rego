package test

allow if input[input.k]

# ----
# reads input
# whole: dynamic_top.rego:3: data.test.allow reads a member of input whose name is only known at run time
