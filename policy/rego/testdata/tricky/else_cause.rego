package test

r := 1 if {
	input.a
} else := 2 if {
	time.now_ns() > input.b
} else := input if {
	input.k
}

# ----
# reads input
# whole: else_cause.rego:7: data.test.r uses input as a whole
# time: else_cause.rego:6: data.test.r calls time.now_ns: it reads the clock
