package test

inner := lower(input.k)
r := v if { v := inner with lower as net.lookup_ip_addr }

# ----
# reads input.k
# impure: with_builtin_impure.rego:4: data.test.r calls net.lookup_ip_addr: the answer comes from the network
