import RedisClient

extension Scripts {
  /// Looks for silent executors and overdue leases, and once in a while whether the counts are right.
  /// Arguments: now, lost after, suspect after, gap, grant expiry.
  /// Answers `{ended leases, pools with room, number of executors, 1 if nobody had swept}`.
  package static let sweep = script(
    "sweep",
    #"""
    local lost_after, suspect_after = tonumber(ARGV[2]), tonumber(ARGV[3])
    local grant_expiry = tonumber(ARGV[5])
    -- What one run does at most: some milliseconds' work; the rest is for the next run.
    local MOST_SUSPECTS, MOST_EXECUTORS, MOST_LEASES = 1000, 100, 500
    -- How often the counts are compared, in microseconds.
    local COUNT_INTERVAL = 10000000
    local late = unattended(tonumber(ARGV[4]))
    redis.call('SET', key('swept'), whole(now))
    if late then redis.call('SET', key('grace'), whole(now + lost_after)) end

    local executors = key('executors')
    -- Whether the counts of executors, each of which is kept by itself, come to the same.
    local function counts_agree()
      local all = redis.call('ZCARD', executors)
      if redis.call('ZCARD', key('names')) ~= all then return false end
      local sum = 0
      for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do
        local count = tonumber(redis.call('HGET', key('pool', pool), 'count') or '0')
        for _, kinds in ipairs({'groups', 'classes'}) do
          local rest = count
          for _, number in ipairs(redis.call('HVALS', key(kinds, pool))) do
            if tonumber(number) <= 0 then return false end
            rest = rest - tonumber(number)
          end
          if rest ~= 0 then return false end
        end
        -- An older allocator does not take it out.
        if count == 0 then redis.call('SREM', key('pools'), pool) end
        sum = sum + count
      end
      return sum == all
    end

    -- Part of the table was lost: all executors are counted anew, in one go, which takes some 5 µs for each.
    local function count_again()
      local pools = {}
      local function count(id)
        local name, pool = kind_of(id)
        if not name then
          redis.call('ZREM', key('names'), id)
          return
        end
        local labels = string.match(name, '^.|%d+|%d+|%d+|(.*)$')
        local p = pools[pool] or {count = 0, groups = {}, classes = {}}
        pools[pool] = p
        p.count = p.count + 1
        p.groups[name] = (p.groups[name] or 0) + 1
        p.classes[labels] = (p.classes[labels] or 0) + 1
      end
      local has_name, is_heard = {}, {}
      local heard_ids, ids = redis.call('ZRANGE', executors, 0, -1), redis.call('ZRANGE', key('names'), 0, -1)
      for _, id in ipairs(heard_ids) do is_heard[id] = true end
      for _, id in ipairs(ids) do
        has_name[id] = true
        count(id)
        if not is_heard[id] then
          -- Should it report no more, it has to be missed.
          local heard = redis.call('HGET', key('executor', id), 'heard')
          if heard then redis.call('ZADD', executors, heard, id) end
        end
      end
      for _, id in ipairs(heard_ids) do
        if not has_name[id] then
          redis.call('ZADD', key('names'), 0, id)
          count(id)
        end
      end
      for _, pool in ipairs(redis.call('SMEMBERS', key('pools'))) do
        if not pools[pool] then
          redis.call('DEL', key('pool', pool), key('groups', pool), key('classes', pool))
          redis.call('SREM', key('pools'), pool)
        end
      end
      for pool, p in pairs(pools) do
        redis.call('SADD', key('pools'), pool)
        redis.call('HSET', key('pool', pool), 'count', whole(p.count))
        redis.call('HSETNX', key('pool', pool), 'since', whole(now))
        for _, kinds in ipairs({'groups', 'classes'}) do
          redis.call('DEL', key(kinds, pool))
          for name, number in pairs(p[kinds]) do
            redis.call('HSET', key(kinds, pool), name, whole(number))
          end
        end
      end
    end

    local silent = redis.call('ZRANGEBYSCORE', executors, '-inf',
      '(' .. whole(now - suspect_after), 'LIMIT', 0, MOST_SUSPECTS)
    for _, id in ipairs(silent) do suspect(id) end

    local ended, pools, seen = {}, {}, {}
    local function reply() return {ended, pools, redis.call('ZCARD', executors), late and 1 or 0} end
    -- By a clock that has gone back since, they were heard and are due in times to come: from now on.
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', executors, '(' .. whole(now + lost_after), '+inf',
      'LIMIT', 0, MOST_SUSPECTS)) do
      redis.call('ZADD', executors, whole(now), id)
      redis.call('HSET', key('executor', id), 'heard', whole(now))
    end
    for _, lease in ipairs(redis.call('ZRANGEBYSCORE', key('due'),
      '(' .. whole(now + 2 * grant_expiry), '+inf', 'LIMIT', 0, MOST_LEASES)) do
      redis.call('ZADD', key('due'), whole(now + grant_expiry), lease)
    end
    local counted = tonumber(redis.call('GET', key('counted')) or '0')
    if now - counted >= COUNT_INTERVAL or counted > now then
      redis.call('SET', key('counted'), whole(now))
      if not counts_agree() then count_again() end
    end
    if has_grace(lost_after) then return reply() end

    local function room(pool)
      if pool and not seen[pool] then
        seen[pool] = true
        pools[#pools + 1] = pool
      end
    end
    local lost = redis.call('ZRANGEBYSCORE', executors, '-inf', '(' .. whole(now - lost_after),
      'WITHSCORES', 'LIMIT', 0, MOST_EXECUTORS)
    for i = 1, #lost, 2 do
      local id, seconds = lost[i], (now - tonumber(lost[i + 1])) / 1000000
      local leases, pool = remove_executor(id, 'executorLost',
        string.format('executor %s was silent for %.1f s', id, seconds))
      for _, lease in ipairs(leases) do ended[#ended + 1] = lease end
      room(pool)
    end
    local due = redis.call('ZRANGEBYSCORE', key('due'), '-inf', whole(now), 'LIMIT', 0,
      MOST_LEASES)
    for _, lease in ipairs(due) do
      local id = redis.call('HGET', key('lease', lease), 'executor')
      local done, cpu, memory, slots = end_lease(lease, 'expired',
        'executor ' .. tostring(id) .. ' does not hold its job')
      if done then
        ended[#ended + 1] = done
        room(reindex(id, cpu, memory, slots))
      else
        redis.call('ZREM', key('due'), lease)
      end
    end
    return reply()
    """#)

  /// What a pool consists of. Arguments: now, departed memory, pool. Answers
  /// `{now, live since or '', {kind, count, ...}, {departed kind, ...}}`.
  package static let survey = script(
    "survey",
    #"""
    local memory, pool = tonumber(ARGV[2]), ARGV[3]
    redis.call('ZREMRANGEBYSCORE', key('departed', pool), '-inf', whole(now - memory))
    return {whole(now), redis.call('HGET', key('pool', pool), 'since') or '',
      redis.call('HGETALL', key('groups', pool)),
      redis.call('ZRANGE', key('departed', pool), 0, -1)}
    """#)

  /// Whether leases still hold. Arguments: now, gap, lost after, then for each: lease, executor.
  /// Answers, for each that does not, its place (the first one's is 0) and `'unknown yet'` or
  /// `'ended', cause, message`.
  package static let check = script(
    "check",
    #"""
    -- Leases that are looked up with one command: almost always all of them hold.
    local PART = 100
    local excused = unattended(tonumber(ARGV[2])) or has_grace(tonumber(ARGV[3]))
    local replies = {}
    local function look(place)
      local lease, id = ARGV[4 + 2 * place], ARGV[5 + 2 * place]
      if redis.call('EXISTS', key('lease', lease)) == 1 then return end
      local reply
      local why = redis.call('GET', key('ended', lease))
      if why then
        local cause, message = string.match(why, '^(.-)' .. SEPARATOR .. '(.*)$')
        reply = {place, 'ended', cause, message}
      elseif excused then
        -- The table is younger than what it is asked about: executors report first.
        reply = {place, 'unknown yet'}
      elseif redis.call('ZSCORE', key('executors'), id) then
        reply = {place, 'ended', 'expired', 'executor ' .. id .. ' does not hold its job'}
      else
        reply = {place, 'ended', 'executorLost', 'executor ' .. id .. ' is not known'}
      end
      replies[#replies + 1] = reply
    end
    local count = (#ARGV - 3) / 2
    for first = 0, count - 1, PART do
      local last = math.min(first + PART, count) - 1
      local keys = {}
      for place = first, last do keys[#keys + 1] = key('lease', ARGV[4 + 2 * place]) end
      if redis.call('EXISTS', unpack(keys)) < #keys then
        for place = first, last do look(place) end
      end
    end
    return replies
    """#)

  /// What executors have and what leases take of it, by pool, a page at a time. Arguments: now, name
  /// to begin behind, count. Answers `{last name or '', {pool, executors, CPU, memory, slots, leased
  /// CPU, memory, slots}...}`.
  package static let usage = script(
    "usage",
    #"""
    local ids = redis.call('ZRANGEBYLEX', key('names'), '(' .. ARGV[2], '+', 'LIMIT', 0,
      tonumber(ARGV[3]))
    local pools, order = {}, {}
    for _, id in ipairs(ids) do
      local e = redis.call('HMGET', key('executor', id), 'pool', 'cpu', 'memory', 'slots',
        'free_cpu', 'free_memory', 'free_slots')
      local sum = pools[e[1]]
      if not sum then
        sum = {0, 0, 0, 0, 0, 0, 0}
        pools[e[1]] = sum
        order[#order + 1] = e[1]
      end
      sum[1] = sum[1] + 1
      for i = 1, 3 do
        sum[1 + i] = sum[1 + i] + tonumber(e[1 + i])
        sum[4 + i] = sum[4 + i] + tonumber(e[1 + i]) - tonumber(e[4 + i])
      end
    end
    local replies = {}
    for _, pool in ipairs(order) do
      local reply = {pool}
      for i, number in ipairs(pools[pool]) do reply[i + 1] = whole(number) end
      replies[#replies + 1] = reply
    end
    return {ids[#ids] or '', replies}
    """#)

  /// Tells what waits at one allocator. Arguments: now, allocator, memory, then for each pool: pool, CPU,
  /// memory, slots. Answers `{pool, CPU, memory, slots}...` of what waits at all others.
  package static let demand = script(
    "demand",
    #"""
    local allocator, memory = ARGV[2], tonumber(ARGV[3])
    local allocators, mine = key('allocators'), key('demand', allocator)
    -- Those that tell nothing any more, and by a clock that has gone back since, in times to come.
    redis.call('ZREMRANGEBYSCORE', allocators, '-inf', whole(now - memory))
    redis.call('ZREMRANGEBYSCORE', allocators, '(' .. whole(now + memory), '+inf')
    redis.call('ZADD', allocators, whole(now), allocator)
    redis.call('DEL', mine)
    for i = 4, #ARGV, 4 do
      redis.call('HSET', mine, ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2] .. ' ' .. ARGV[i + 3])
    end
    redis.call('PEXPIRE', mine, whole(memory / 1000))

    local sums, order = {}, {}
    for _, other in ipairs(redis.call('ZRANGE', allocators, 0, -1)) do
      local waiting = other == allocator and {} or redis.call('HGETALL', key('demand', other))
      for i = 1, #waiting, 2 do
        local sum = sums[waiting[i]]
        if not sum then
          sum = {0, 0, 0}
          sums[waiting[i]] = sum
          order[#order + 1] = waiting[i]
        end
        local place = 1
        for number in string.gmatch(waiting[i + 1], '%S+') do
          sum[place] = sum[place] + tonumber(number)
          place = place + 1
        end
      end
    end
    local replies = {}
    for i, pool in ipairs(order) do
      replies[i] = {pool, whole(sums[pool][1]), whole(sums[pool][2]), whole(sums[pool][3])}
    end
    return replies
    """#)

  /// Executors with their leases, a page at a time. Arguments: now, name to begin behind, count, pool or
  /// ''. Answers `{last name or '', executors}`, each `{id, address, pool, labels, draining, suspect, CPU, memory, slots, last heard, {lease,
  /// request, token, CPU, memory, slots, expires or ''}...}`.
  package static let list = script(
    "list",
    #"""
    local ids = redis.call('ZRANGEBYLEX', key('names'), '(' .. ARGV[2], '+', 'LIMIT', 0,
      tonumber(ARGV[3]))
    local replies = {}
    for _, id in ipairs(ids) do
      local e = redis.call('HMGET', key('executor', id), 'address', 'pool', 'labels', 'draining',
        'suspect', 'cpu', 'memory', 'slots')
      if ARGV[4] == '' or ARGV[4] == e[2] then
        local leases = {}
        for _, lease in ipairs(redis.call('SMEMBERS', key('held', id))) do
          local l = redis.call('HMGET', key('lease', lease), 'request', 'token', 'cpu', 'memory',
            'slots')
          local due = tonumber(redis.call('ZSCORE', key('due'), lease))
          leases[#leases + 1] = {lease, l[1], l[2], l[3], l[4], l[5], due and whole(due) or ''}
        end
        local heard = tonumber(redis.call('ZSCORE', key('executors'), id) or '0')
        replies[#replies + 1] = {id, e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8], whole(heard),
          leases}
      end
    end
    return {ids[#ids] or '', replies}
    """#)
}
