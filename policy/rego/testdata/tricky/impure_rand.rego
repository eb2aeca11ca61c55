package test

r := rand.intn(input.user, 100)

# ----
# reads input.user
# impure: impure_rand.rego:3: data.test.r calls rand.intn: the answer is random
