package test

allow if { every r in input.roles { r in input.list } }

# ----
# reads input.list
# reads input.roles
