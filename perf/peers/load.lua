-- The load of wrk: sends the requests of a folder in turn, and prints the figures as one line of JSON.
-- Arguments: the folder, and the number N of requests. The folder holds 0.body to (N-1).body, and beside each a file
-- N.headers with one "Name: value" per line.

local formatted = {}
local next_one = 0
local count = 0

function init(args)
   count = tonumber(args[2])
   for number = 0, count - 1 do
      local headers = {}
      for line in io.lines(args[1] .. "/" .. number .. ".headers") do
         local name, value = line:match("^([^:]+): (.*)$")
         headers[name] = value
      end
      local file = assert(io.open(args[1] .. "/" .. number .. ".body", "rb"))
      formatted[number] = wrk.format("POST", nil, headers, file:read("*a"))
      file:close()
   end
end

function request()
   next_one = (next_one + 1) % count
   return formatted[next_one]
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      '\nfigures {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, '
         .. '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.status, errors.timeout
   ))
end
