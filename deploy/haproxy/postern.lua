-- Asks Postern about a request (forward-auth) from HAProxy's Lua, and does what it says:
-- on an allow the request goes on with what Postern sets, on a deny the client gets
-- Postern's answer, and without an answer 503.
local url = os.getenv("POSTERN_URL")

-- These are the gateway's to say.
local own = {
  ["host"] = true, ["content-length"] = true, ["transfer-encoding"] = true, ["connection"] = true,
  ["x-forwarded-method"] = true, ["x-forwarded-proto"] = true, ["x-forwarded-host"] = true,
  ["x-forwarded-uri"] = true, ["x-forwarded-for"] = true,
}

-- These belong to the answer itself.
local of_answer = {
  ["content-length"] = true, ["content-type"] = true, ["connection"] = true, ["date"] = true,
  ["transfer-encoding"] = true, ["cache-control"] = true, ["keep-alive"] = true,
}

local function ask(txn)
  local headers = {}
  for name, values in pairs(txn.http:req_get_headers()) do
    if not own[name] then
      local list = {}
      for i = 0, #values do list[#list + 1] = values[i] end
      headers[name] = list
    end
  end
  headers["x-forwarded-method"] = { txn.f:method() }
  headers["x-forwarded-proto"] = { txn.f:ssl_fc() == 1 and "https" or "http" }
  headers["x-forwarded-host"] = { txn.sf:req_fhdr("host") }
  headers["x-forwarded-uri"] = { txn.f:pathq() }
  headers["x-forwarded-for"] = { txn.f:src() }
  return core.httpclient():get { url = url, headers = headers, timeout = 1000 }
end

core.register_action("postern", { "http-req" }, function(txn)
  local answer = ask(txn)
  if answer.status == 200 then
    for name, values in pairs(answer.headers) do
      if not of_answer[name] then
        txn.http:req_del_header(name)
        for i = 0, #values do
          if values[i] ~= nil and values[i] ~= "" then txn.http:req_add_header(name, values[i]) end
        end
      end
    end
    txn:set_var("txn.postern", "allowed")
    return
  end
  local reply = txn:reply { status = 503 }
  if answer.status ~= nil and answer.status >= 300 then
    reply:set_status(answer.status)
    for name, values in pairs(answer.headers) do
      if name ~= "content-length" and name ~= "connection" and name ~= "transfer-encoding" then
        for i = 0, #values do if values[i] ~= nil then reply:add_header(name, values[i]) end end
      end
    end
    reply:set_body(answer.body)
  end
  txn:done(reply)
end)
