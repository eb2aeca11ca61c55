package test

inner := data.q
r := v if { v := inner with data.q as input.b }

# ----
# reads input.b
