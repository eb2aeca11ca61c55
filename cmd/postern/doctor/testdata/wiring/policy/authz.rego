package postern.authz

default decision := false
