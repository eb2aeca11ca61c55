package postern.authz

default decision := {"allow": false, "message": "This is for the billing team."}

decision := {"allow": true} if input.principal.metadata.team == "billing"
