package test

# even replaced it counts: the walk does not follow who is called when
inner := http.send({"url": input.user, "method": "GET"}).status_code
r := v if { v := inner with http.send as {"status_code": 200} }

# ----
# reads input.user
# impure: with_mocks_impure.rego:4: data.test.inner calls http.send: the answer comes from the network
# impure: with_mocks_impure.rego:5: data.test.r calls http.send: the answer comes from the network
