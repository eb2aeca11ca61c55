package test

p[x].foo := y if { some x in input.list; y := input.b }
r := p.a.foo

# ----
# reads input.b
# reads input.list
