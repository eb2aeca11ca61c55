package postern.authz

default decision := false

decision := input.request.path != "/forbidden"
