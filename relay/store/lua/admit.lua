-- Check, settle and lease for many buckets and many calls, in one round trip.
-- The reference in Python, to the last bit: relay/limits/bucket.py, Buckets.answer.
--
-- KEYS     the bucket's key of each of U bids, then the guard key: all of one hash tag.
-- ARGV[1]  msgpack, flat integers: U x {limit a minute, burst_ms, want, fair, kept_ms},
--          then for each claim {force, draws, (bid from 1, cost) x draws}.
--          force: 0 = checked, 1 = debited in any case, 2 = brought down to that much debt.
-- Reply    a code for each claim (0 | wait_ms * 256 + bid), then {leased, used_ms} x U.
--
-- Several bids may be on one bucket: each may draw only while more than its kept_ms is left, so
-- that what they leave is there for the others at once.
--
-- A bucket is a string: its TAT in ms since 2025-01-01, which keeps doubles exact to 8e-6 ms.
-- It is there only while the bucket is not full. %.6f, because tostring() gives 14 digits only.
local time = redis.call('TIME')
local now = (time[1] - 1735689600) * 1000 + time[2] / 1000
local buckets = #KEYS - 1
local kept = redis.call('MGET', unpack(KEYS))
-- The guard says since when these data exist. A bucket that is absent was emptied then: who has
-- lost the data must not hand out every burst again. Later than now: the clock was set back.
local born = tonumber(kept[buckets + 1] or false)
if not born or born > now then
  local text = string.format('%.3f', now)
  born = tonumber(text)
  redis.call('SET', KEYS[buckets + 1], text)
end
local asked = cmsgpack.unpack(ARGV[1])
-- What the bids on one bucket share stands at the first of them, its place.
local tat, per, top, full, place, first, touched = {}, {}, {}, {}, {}, {}, {}
for k = 1, buckets do
  local at, key = k * 5, KEYS[k]
  local p = first[key]
  if not p then
    p = k
    first[key] = k
    local x = tonumber(kept[k] or false) or (born + asked[at - 3])
    if x < now then x = now end
    -- No debt reaches so far: the clock was set back. What was used nobody knows: it is empty.
    local limit = now + asked[at - 3]
    if x > limit + 65000 then
      x = limit
      touched[k] = true
    end
    tat[k] = x
  end
  place[k] = p
  per[k] = 60000 / asked[at - 4]
  top[k] = now + asked[at - 3]
  full[k] = now + (asked[at - 3] - asked[at])
end
local reply, count = {}, 0
local at, last = 5 * buckets + 1, #asked
while at <= last do
  local tail = at + 1 + 2 * asked[at + 1]
  local code = 0
  if asked[at] == 0 then
    for j = at + 2, tail, 2 do
      local k, cost = asked[j], asked[j + 1]
      local fair = asked[k * 5 - 1]
      if fair > 0 and cost > fair then cost = fair end
      local over = tat[place[k]] + cost * per[k]
      over = over - full[k]
      if over > 0 then
        local refusal = math.ceil(over) * 256 + k
        if refusal > code then code = refusal end
      end
    end
  end
  if code == 0 then
    for j = at + 2, tail, 2 do
      local k = asked[j]
      local p = place[k]
      local moved = asked[j + 1] * per[k]
      local x = tat[p] + moved
      if asked[at] == 2 then x = math.max(tat[p], top[k] + moved) end
      if x > top[k] + 60000 then x = top[k] + 60000 end
      tat[p] = x
      touched[p] = true
    end
  end
  at = tail + 1
  count = count + 1
  reply[count] = code
end
for k = 1, buckets do
  local p = place[k]
  local leased = math.min(asked[k * 5 - 2], math.floor((full[k] - tat[p]) / per[k] / 4))
  if leased > 0 then
    tat[p] = tat[p] + leased * per[k]
    touched[p] = true
  else
    leased = 0
  end
  reply[count + 2 * k - 1] = leased
end
for k = 1, buckets do
  local p = place[k]
  local used = tat[p] - now
  if used <= 0 then used = 0 end
  if p == k and touched[k] then
    if used == 0 then
      redis.call('DEL', KEYS[k])
    else
      redis.call('SET', KEYS[k], string.format('%.6f', tat[k]), 'PX', math.ceil(used))
    end
  end
  reply[count + 2 * k] = math.ceil(used)
end
return reply
