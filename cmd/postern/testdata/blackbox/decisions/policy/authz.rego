package postern.authz

decision := {"allow": input.request.path != "/denied", "headers": {"x-inner": "hunter2hunter2"}}
