package test

r := json.unmarshal(input.context.request.http.body).request

# ----
# reads input.context.request.http.body
