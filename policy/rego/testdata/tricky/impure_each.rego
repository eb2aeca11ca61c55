package test

a if http.send({"url": "http://x", "method": "get"})
b if net.lookup_ip_addr("x")
c if uuid.rfc4122("x")
d if opa.runtime()

# ----
# impure: impure_each.rego:3: data.test.a calls http.send: the answer comes from the network
# impure: impure_each.rego:4: data.test.b calls net.lookup_ip_addr: the answer comes from the network
# impure: impure_each.rego:5: data.test.c calls uuid.rfc4122: the answer is random
# impure: impure_each.rego:6: data.test.d calls opa.runtime: the answer is the process's configuration and environment
