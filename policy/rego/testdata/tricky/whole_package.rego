package test

r := data.test.sub

# ----
