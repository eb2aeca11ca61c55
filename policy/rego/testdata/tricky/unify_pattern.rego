package test

allow if { [a, b] = input.list; a == "a"; b == input.k }
allow if { {"b": {"c": z}} = input.a; z == 1 }

# ----
# reads input.a
# reads input.k
# reads input.list
