# query data.test.allow
package test

import input.attributes as att

request := att.request
http := request.http
allow if http.method == "GET"

# ----
# reads input.attributes.request.http.method
