package test

allow if time.now_ns() > input.b

# ----
# reads input.b
# time: time_bounded.rego:3: data.test.allow calls time.now_ns: it reads the clock
