package postern.authz

decision := true
