package test

r := sprintf("%v", [input])

# ----
# reads input
# whole: sprintf_whole.rego:3: data.test.r uses input as a whole
