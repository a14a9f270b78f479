-- Seats for calls in flight: each worker holds a block in each room, and renews it.
-- The reference in Python for the size of a block: relay/limits/slots.py, grant_seats.
--
-- KEYS     a hash for each room: worker -> "seats:until_ms"; all of one hash tag. Below the first
--          class of bidders the field is "worker/rank": each class has a block of its own.
-- ARGV[1]  the worker
-- ARGV[2]  how long a block lives without being renewed, in ms
-- ARGV[3]  msgpack, flat integers: for each room {seats, used, need, spare, rank}
-- Reply    the size of the worker's block in each room.
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000 + math.floor(time[2] / 1000)
local name, ttl = ARGV[1], tonumber(ARGV[2])
local asked = cmsgpack.unpack(ARGV[3])
local reply = {}
for k = 1, #KEYS do
  local seats, used, need, spare, rank = unpack(asked, k * 5 - 4, k * 5)
  local worker = rank > 0 and name .. '/' .. rank or name
  local others, gone = 0, {}
  local fields = redis.call('HGETALL', KEYS[k])
  for at = 1, #fields, 2 do
    if fields[at] ~= worker then
      local held, till = string.match(fields[at + 1], '^(%d+):(%d+)$')
      if till and tonumber(till) > now then
        others = others + tonumber(held)
        -- The clock was set back: a worker that is gone would keep its seats until it is as late.
        if tonumber(till) > now + ttl then
          redis.call('HSET', KEYS[k], fields[at], string.format('%s:%d', held, now + ttl))
        end
      else
        gone[#gone + 1] = fields[at]
      end
    end
  end
  if #gone > 0 then redis.call('HDEL', KEYS[k], unpack(gone)) end
  local free = seats - others
  local block = math.max(used, math.min(used + need, free))
  block = block + math.max(0, math.min(spare, math.floor((free - block) / 8)))
  if block > 0 then
    redis.call('HSET', KEYS[k], worker, string.format('%d:%d', block, now + ttl))
    redis.call('PEXPIRE', KEYS[k], ttl)
  else
    redis.call('HDEL', KEYS[k], worker)
  end
  reply[k] = block
end
return reply
