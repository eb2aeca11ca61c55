# query data.test.allow
package test

x := input.x[input.k]
allow if x.z == 1

# ----
# reads input.k
# reads input.x
