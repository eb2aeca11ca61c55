package test

import future.keywords.not

a if {
	not {
		x := input.a
		y := x.b
		y.c == 1
	}
}

# ----
# reads type of input.a
# reads type of input.a.b
# reads input.a.b.c
