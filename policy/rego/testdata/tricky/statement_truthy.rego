package test

allow if { x := input.a.b; x }
deny if { x := input.b; not x }

# ----
# reads input.a.b
# reads input.b
