package test

import future.keywords.and
import future.keywords.or

a if {
	input.a.b and input.b
}

b if {
	x := input.x
	x.a or x.b
}

# ----
# reads input.a.b
# reads input.b
# reads type of input.x
# reads input.x.a
# reads input.x.b
