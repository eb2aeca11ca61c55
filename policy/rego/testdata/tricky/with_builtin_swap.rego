package test

r := v if { v := lower(input.method) with lower as upper }

# ----
# reads input.method
