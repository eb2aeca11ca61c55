package test

r if { trace(input.user); input.k }

# ----
# reads input.k
# reads input.user
# impure: print_and_trace.rego:3: data.test.r calls trace: it leaves a note in the trace of every evaluation, which a cached decision would not
