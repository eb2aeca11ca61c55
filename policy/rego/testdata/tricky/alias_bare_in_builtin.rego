package test

n := count(x) if { x := input.list }

# ----
# reads input.list
