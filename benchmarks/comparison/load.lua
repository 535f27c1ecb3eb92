-- Sends the requests of a file, one after another from a random one on, and prints what came of it as JSON.
-- A line is: method, path, body, entity tag, between tabs. Arguments: the file, a bearer token or "".

local requests, position = {}, 0

function init(arguments)
  local token = arguments[2] or ""
  for line in io.lines(arguments[1]) do
    local method, path, body, tag = line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)$")
    local headers = {}
    if tag ~= "" then headers["If-None-Match"] = tag end
    if body ~= "" then headers["Content-Type"] = "application/json" end
    if body ~= "" and token ~= "" then headers["Authorization"] = "Bearer " .. token end
    requests[#requests + 1] = wrk.format(method, path, headers, body ~= "" and body or nil)
  end
  math.randomseed(os.time())
  position = math.random(#requests)
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"requests": %d, "failed": %d, "microseconds": %d, "p50": %d, "p99": %d}\n',
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
