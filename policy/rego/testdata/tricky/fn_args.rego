package test

is_get(req) if req.method == "GET"
allow if is_get(input.attributes.request.http)

# ----
# reads type of input.attributes.request.http
# reads input.attributes.request.http.method
