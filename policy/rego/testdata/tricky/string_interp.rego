package test

r := $"user {input.user} {input.a.b.c}"

# ----
# reads input.a.b.c
# reads input.user
