# data.legacy.allow
package legacy

import future.keywords.contains
import future.keywords.if
import future.keywords.in

default allow = false

allow if {
	user_is_owner
	input.request.method in ["GET", "POST"]
} else if {
	"admin" in input.principal.roles
	not locked
}

user_is_owner if {
	input.request.segments[1] == data.orders[i].id
	data.orders[i].owner == input.principal.id
}

locked if {
	order := data.orders[_]
	order.id == input.request.segments[1]
	order.locked
}
