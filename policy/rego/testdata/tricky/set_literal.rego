package test

allow if input.user in {"alice", input.k}
allow if {input.user, "x"} == {"alice", "x"}

# ----
# reads input.k
# reads input.user
