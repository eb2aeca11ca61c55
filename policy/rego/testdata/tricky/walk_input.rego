package test

paths contains p if { walk(input, [p, v]); v == 1 }

# ----
# reads input
# whole: walk_input.rego:3: data.test.paths hands all of input to walk
