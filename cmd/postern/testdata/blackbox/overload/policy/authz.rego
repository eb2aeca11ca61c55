package postern.authz

default decision := false

decision if {
	startswith(input.request.path, "/good/")
	takes_a_while
}

decision if {
	startswith(input.request.path, "/endless/")
	some i in numbers.range(1, 3000)
	some j in numbers.range(1, 3000)
	i * j == -1
}

takes_a_while if count([i | some i in numbers.range(1, 200)]) == 200
