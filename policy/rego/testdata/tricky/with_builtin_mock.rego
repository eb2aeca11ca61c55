package test

fake(x) := 3 if { x == input.list }
inner := count(input.roles)
r := v if { v := inner with count as fake }
s := v if { v := inner with count as 9 }

# ----
# reads input.list
# reads input.roles
