# query data.test.allow
package test

everything := input
allow if everything.a.b.c == 1
deny if everything == {}
allow if { x := everything; x.k == "a"; not deny }

# ----
# reads input
# whole: stand_in_bare.rego:6: data.test.deny uses input as a whole
