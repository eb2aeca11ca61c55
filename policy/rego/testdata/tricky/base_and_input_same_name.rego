package test

input_like := data.input.a
r := input_like

# ----
