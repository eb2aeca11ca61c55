package test

lim := data.limits.max
allow if lim > 1 with data.limits.max as input.b

# ----
# reads input.b
