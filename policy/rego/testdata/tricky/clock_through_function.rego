package test

fresh(t) if time.now_ns() - t.at < 1000
r if fresh(input.a)
s := io.jwt.decode_verify(input.user, {"secret": input.k})

# ----
# reads type of input.a
# reads input.a.at
# reads input.k
# reads input.user
# time: clock_through_function.rego:3: data.test.fresh calls time.now_ns: it reads the clock
# time: clock_through_function.rego:5: data.test.s calls io.jwt.decode_verify: it compares exp and nbf with the clock
