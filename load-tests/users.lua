-- Load for wrk: GET of the path that wrk was given with six request headers, 10,000 users in turn. Requests are built once,
-- before the clock runs.

local users = 10000
local threads = 0
local next_user = 0
local requests = {}

function setup(thread)
  -- Each thread starts at another user, so that two threads do not walk in step.
  thread:set("first", threads * 3571)
  threads = threads + 1
end

function init()
  for user = 0, users - 1 do
    requests[user] = wrk.format("GET", wrk.path, {
      ["Host"] = "bench.example",
      ["User-Agent"] = "weir-load-test/1.0",
      ["Accept"] = "text/plain,*/*;q=0.8",
      ["Accept-Encoding"] = "gzip, deflate",
      ["Accept-Language"] = "en-GB,en;q=0.7",
      ["X-User-Id"] = "user-" .. user,
    })
  end
  next_user = first % users
end

function request()
  next_user = (next_user + 1) % users
  return requests[next_user]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    "RESULT requests=%d duration_us=%d failed=%d p50_us=%d p99_us=%d\n",
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
