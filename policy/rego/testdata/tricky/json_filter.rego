package test

r := json.filter(input, ["a/b"])
s := object.filter(input.a, ["b"])

# ----
# reads input
# whole: json_filter.rego:3: data.test.r hands all of input to json.filter
