package test

allow if { _ = input.a }
allow2 if { x := input.a; true }
allow3 if { input.a }

# ----
# reads input.a
