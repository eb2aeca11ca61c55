package test

r := {"got": x.b, "all": x} if { x := input.a }

# ----
# reads input.a
