package test

m := {"a": {"b": 1}, "y": {"z": 2}}
r := m[input.k]
s := v if { k := input.key; v := m[k] }
t := input.x[k].z if { k := input.key }

# ----
# reads input.k
# reads input.key
# reads input.x
