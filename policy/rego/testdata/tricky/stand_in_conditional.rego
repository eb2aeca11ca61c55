# query data.test.allow
package test

x := input.a if input.k == "a"
allow if x.b.c == 1

# ----
# reads input.a
# reads input.k
