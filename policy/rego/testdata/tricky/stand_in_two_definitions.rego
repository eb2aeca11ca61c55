# query data.test.allow
package test

x := input.a
x := input.b if input.k == "never"
allow if x.b.c == 1

# ----
# reads input.a
# reads input.b
# reads input.k
