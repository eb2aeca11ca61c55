package test

keys contains k if { some k, v in input; v }

# ----
# reads input
# whole: some_in_top.rego:3: data.test.keys reads a member of input whose name is only known at run time
