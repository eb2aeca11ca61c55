# Attribute-based access: clearances, working hours and ownership, looked up in
# data by what the request names.
package abac

import data.resources

subject := data.people[input.principal.id]

resource := resources[input.target.type][input.target.id]

action := input.target.action

level := {"public": 0, "internal": 1, "secret": 2}

cleared(person, thing) if level[person.clearance] >= level[thing.classification]

owns(person, thing) if person.id == thing.owner

owns(person, thing) if {
	some deputy in thing.deputies
	deputy == person.id
}

# The hour comes from the request's context if it has one, else from the clock.
hour := input.context.hour

hour := h if {
	not input.context.hour
	[h, _, _] := time.clock(time.now_ns())
}

at_work if {
	hour >= subject.hours.from
	hour < subject.hours.to
}

default allow := false

allow if {
	action == "read"
	cleared(subject, resource)
}

allow if {
	action in {"write", "delete"}
	owns(subject, resource)
	at_work
}

allow if every duty in input.context.duties { duty in subject.duties }
