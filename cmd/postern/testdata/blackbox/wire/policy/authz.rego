package postern.authz

default decision := true
