# query data.test.allow
package test

lib.x := input.a
lib.y := input.b
allow if lib.x.b.c == 1
allow if data.test.lib[input.k] == 2

# ----
# reads input.a
# reads input.b
# reads input.k
