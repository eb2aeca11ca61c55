package test

p[k] := v if { some k in input.roles; v := input.a[k] }
q[input.k] := 1

# ----
# reads input.a
# reads input.k
# reads input.roles
