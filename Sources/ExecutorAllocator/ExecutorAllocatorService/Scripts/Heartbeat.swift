import RedisClient

extension Scripts {
  /// Records a heartbeat: registers the executor, confirms its leases, and brings back those that
  /// an earlier table knew.
  ///
  /// Arguments: now, lost after, grant expiry, token lead, executor, incarnation, address, pool,
  /// labels (joined), CPU, memory, slots, draining, warm projects (joined), CPU and memory in use,
  /// newest token, then for each lease: lease, request, token, CPU, memory, slots, project. Answers
  /// `{'recorded', room, leases to stop, ended leases}`, `{'duplicate', address, silent for}`,
  /// `{'deregistered'}` or `{'ahead', lease or '', token, limit}`.
  package static let heartbeat = script(
    "heartbeat",
    #"""
    local lost_after, grant_expiry = tonumber(ARGV[2]), tonumber(ARGV[3])
    local id, incarnation, address, pool = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
    local labels, draining, warm = ARGV[9], ARGV[13], ARGV[14]
    local cpu, memory, slots = ARGV[10], ARGV[11], ARGV[12]
    local executor = key('executor', id)
    local newest = tonumber(ARGV[17])
    -- How often the executor's entries in the index are written anew, in microseconds: should Redis have lost
    -- a part of it, heartbeats bring that back, at the price of six commands each time.
    local INDEX_INTERVAL = 20000000

    local facts = redis.call('MGET', key('token'), key('nonce'), key('gone', id))
    local counter, nonce, gone = tonumber(facts[1] or '0'), facts[2], facts[3]
    -- A token that nobody can have given out is made up, and would leave those to come no room.
    local limit = math.max(counter, now + tonumber(ARGV[4]))
    if newest > limit then return {'ahead', '', ARGV[17], whole(limit)} end
    for i = 18, #ARGV, 7 do
      if tonumber(ARGV[i + 2]) > limit then
        return {'ahead', ARGV[i], ARGV[i + 2], whole(limit)}
      end
    end

    if gone == incarnation then return {'deregistered'} end

    local ended, room = {}, 0
    local e = redis.call('HMGET', executor, 'incarnation', 'address', 'pool', 'labels', 'cpu',
      'memory', 'slots', 'draining', 'suspect', 'warm', 'indexed')
    if e[1] and e[1] ~= incarnation then
      local silent = now - tonumber(redis.call('ZSCORE', key('executors'), id) or '0')
      -- At the same address the old process cannot be alive: the new one listens there. Unless it is
      -- heard again: then two of one name and address run somewhere, and the newer one stays.
      local function replaced(process)
        redis.call('SET', key('replaced', id), process .. SEPARATOR
          .. whole(now + GONE_MEMORY * 1000000), 'EX', GONE_MEMORY)
      end
      local process, till = string.match(redis.call('GET', key('replaced', id)) or '',
        '^(.-)' .. SEPARATOR .. '(.*)$')
      local is_replaced = process == incarnation and now < tonumber(till)
      if (e[2] ~= address or is_replaced) and silent < lost_after then
        if is_replaced then replaced(incarnation) end
        return {'duplicate', e[2], whole(silent)}
      end
      replaced(e[1])
      ended = remove_executor(id, 'executorRestarted',
        'executor ' .. id .. ' came back as another process')
      e = {}
    elseif e[1] and (e[3] ~= pool or e[4] ~= labels) then
      -- One process never changes these; whoever made it do so gets a fresh entry.
      ended = remove_executor(id, 'executorRestarted',
        'executor ' .. id .. ' changed its pool or labels')
      e = {}
    end

    local changed, is_new = false, not e[1]
    -- The share of leases that it does not know to be taken yet.
    local taken_cpu, taken_memory, taken_slots = 0, 0, 0
    if is_new then
      redis.call('HSET', executor, 'pool', pool, 'labels', labels, 'free_cpu', cpu,
        'free_memory', memory, 'free_slots', slots, 'draining', draining, 'suspect', '0',
        'bucket', '', 'warm', '', 'cpu', cpu, 'memory', memory, 'slots', slots,
        'incarnation', incarnation, 'address', address)
      count_kind(pool, kind(state_of(draining, '0'), cpu, memory, slots, labels), 1)
      redis.call('HINCRBY', key('classes', pool), labels, 1)
      redis.call('HINCRBY', key('pool', pool), 'count', 1)
      redis.call('HSETNX', key('pool', pool), 'since', whole(now))
      redis.call('SADD', key('pools'), pool)
      redis.call('ZADD', key('names'), 0, id)
      -- What it was is lost, perhaps, and what is leased of it is not.
      for _, lease in ipairs(redis.call('SMEMBERS', key('held', id))) do
        local l = redis.call('HMGET', key('lease', lease), 'cpu', 'memory', 'slots')
        if l[1] then
          taken_cpu, taken_memory = taken_cpu + tonumber(l[1]), taken_memory + tonumber(l[2])
          taken_slots = taken_slots + tonumber(l[3])
        else
          redis.call('SREM', key('held', id), lease)
        end
      end
      e = {incarnation, address, pool, labels, cpu, memory, slots, draining, '0', ''}
      changed, room = true, 1
    elseif e[5] ~= cpu or e[6] ~= memory or e[7] ~= slots or e[8] ~= draining or e[9] == '1'
      or e[2] ~= address then
      count_kind(pool, kind(state_of(e[8], e[9]), e[5], e[6], e[7], labels), -1)
      count_kind(pool, kind(state_of(draining, '0'), cpu, memory, slots, labels), 1)
      redis.call('HINCRBY', executor, 'free_cpu', whole(tonumber(cpu) - tonumber(e[5])))
      redis.call('HINCRBY', executor, 'free_memory', whole(tonumber(memory) - tonumber(e[6])))
      redis.call('HINCRBY', executor, 'free_slots', whole(tonumber(slots) - tonumber(e[7])))
      redis.call('HSET', executor, 'address', address, 'cpu', cpu, 'memory', memory, 'slots',
        slots, 'draining', draining, 'suspect', '0')
      changed, room = true, 1
    end
    redis.call('ZADD', key('executors'), whole(now), id)
    local indexed = tonumber(e[11] or '0')
    local is_due = now - indexed >= INDEX_INTERVAL or indexed > now
    if is_due then indexed = now end
    redis.call('HSET', executor, 'used_cpu', ARGV[15], 'used_memory', ARGV[16],
      'heard', whole(now), 'indexed', whole(indexed))

    if e[10] ~= warm then
      local before, after = {}, {}
      for _, project in ipairs(split(e[10])) do before[project] = true end
      for _, project in ipairs(split(warm)) do
        after[project] = true
        if not before[project] then
          redis.call('ZADD', key('warm', pool, project), whole(now), id)
        end
      end
      for project in pairs(before) do
        if not after[project] then redis.call('ZREM', key('warm', pool, project), id) end
      end
      redis.call('HSET', executor, 'warm', warm)
    end

    -- Its leases. One that is unknown and was not given out by this table is brought back: the
    -- runner's word is all that is left of it. Any other unknown one is over.
    local prefix = nonce and lease_prefix(nonce)
    local function is_ours(lease) return prefix and string.sub(lease, 1, #prefix) == prefix end
    local stop, reported, largest, known, confirmed = {}, {}, math.max(counter, newest), 0, {}
    for i = 18, #ARGV, 7 do
      local lease, request, token = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
      if not reported[lease] then
        reported[lease] = true
        largest = math.max(largest, token)
        local owner = redis.call('HGET', key('lease', lease), 'executor')
        if owner == id then
          known = known + 1
          confirmed[#confirmed + 1] = lease
          if is_new and redis.call('SADD', key('held', id), lease) == 1 then
            taken_cpu, taken_memory = taken_cpu + tonumber(ARGV[i + 3]), taken_memory + tonumber(ARGV[i + 4])
            taken_slots = taken_slots + tonumber(ARGV[i + 5])
          end
        elseif owner or redis.call('EXISTS', key('ended', lease)) == 1
          or (is_ours(lease) and token <= counter) then
          stop[#stop + 1] = lease
        else
          known = known + 1
          local its_cpu, its_memory = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
          local its_slots = tonumber(ARGV[i + 5])
          begin_lease(id, lease, request, ARGV[i + 6], token, its_cpu, its_memory, its_slots)
          taken_cpu, taken_memory = taken_cpu + its_cpu, taken_memory + its_memory
          taken_slots = taken_slots + its_slots
          changed = true
        end
      end
    end
    for i = 1, #confirmed, 1000 do
      redis.call('ZREM', key('due'), unpack(confirmed, i, math.min(i + 999, #confirmed)))
    end
    if largest > counter then
      -- Given out by a table before this one, perhaps by another clock: new tokens are larger. Should
      -- it have been this one, it has lost its last leases, as a Redis does that was restored: what
      -- is unknown of those before is no proof of anything.
      redis.call('SET', key('token'), whole(largest))
      redis.call('DEL', key('nonce'))
    end

    -- Leases that the runner was known to hold and does not report end soon, unless released.
    if redis.call('SCARD', key('held', id)) > known then
      for _, lease in ipairs(redis.call('SMEMBERS', key('held', id))) do
        if not reported[lease] and not redis.call('ZSCORE', key('due'), lease) then
          redis.call('ZADD', key('due'), whole(now + grant_expiry), lease)
        end
      end
    end

    if changed then
      reindex(id, -taken_cpu, -taken_memory, -taken_slots, nil, is_due)
    elseif is_due then
      reindex(id, nil, nil, nil, nil, true)
    end
    return {'recorded', room, stop, ended}
    """#)

  /// Takes an executor out. Arguments: now, executor, incarnation. Answers its ended leases.
  package static let deregister = script(
    "deregister",
    #"""
    local id, incarnation = ARGV[2], ARGV[3]
    redis.call('SET', key('gone', id), incarnation, 'EX', GONE_MEMORY)
    if redis.call('HGET', key('executor', id), 'incarnation') ~= incarnation then return {} end
    local ended = remove_executor(id, 'executorLost',
      'executor ' .. id .. ' was taken out of the farm')
    return ended
    """#)
}
