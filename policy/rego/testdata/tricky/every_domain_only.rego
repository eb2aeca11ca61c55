package test

allow if { every r in input.roles { r == "a" } }

# ----
# reads input.roles
