package test

# x gets its value from the iteration, and the equality compares
r if { some x in ["a", 2]; x = input.b }
s if { data.test.m[x] = 1; x = input.k }
m := {"a": 1}

# ----
# reads input.b
# reads input.k
