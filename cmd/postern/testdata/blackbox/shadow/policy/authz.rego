package postern.authz

default decision := false

decision if {
	may_read
	input.request.method == "GET"
}

may_read if input.request.path == concat("/", ["", "orders", input.principal.id])
