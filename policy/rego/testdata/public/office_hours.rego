# data.hours.decision
package hours

default decision := {"allow": false, "reason": "outside_time_window"}

decision := {"allow": true} if {
	some window in data.windows[input.principal.tenant]
	now := time.clock([time.now_ns(), window.zone])
	time.weekday([time.now_ns(), window.zone]) in window.days
	now[0] * 60 + now[1] >= window.from
	now[0] * 60 + now[1] < window.until
}

decision := {"allow": true} if input.principal.metadata.oncall == true
