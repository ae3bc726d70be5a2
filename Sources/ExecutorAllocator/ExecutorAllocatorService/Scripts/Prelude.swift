import RedisClient

/// The changes of the table in Redis, each one script: Redis runs nothing else meanwhile, so
/// several allocators may work on one table.
///
/// What of it is derived (the index and the counts) comes right again when a part of it is lost: a heartbeat
/// writes its executor's entries anew once in a while, and a sweep compares the counts.
///
/// What is kept (all keys begin with `millrace:`; times are microseconds since 1970):
///
/// | key | holds |
/// | --- | --- |
/// | `executors` | sorted set: executor by its last heartbeat |
/// | `names` | sorted set: executors by name |
/// | `executor:E` | hash: what E is, its free share, where the index has it |
/// | `held:E` | set: the leases on E |
/// | `lease:L` | hash: a lease |
/// | `due` | sorted set: leases that nobody confirms, by expiry |
/// | `request:R` | the lease that this table has given out for request R |
/// | `ended:L` | why lease L is over, for an hour |
/// | `gone:E` | the process of E that was taken out, for a minute |
/// | `replaced:E` | the process of E that another one replaced, for a minute since it was last heard |
/// | `pools` | set: pools that have executors |
/// | `pool:P` | hash: since when P has executors, and how many |
/// | `groups:P` | hash: kinds of executors in P, and how many of each |
/// | `departed:P` | sorted set: kinds that left, by when |
/// | `classes:P` | hash: sets of labels in P, and how many executors have them |
/// | `buckets:P:C` | set: which of the next may hold anything, for label set C (or `*`, all) |
/// | `free:P:B:C` | sorted set: executors of C with room, by free CPU, then free memory |
/// | `room:P` | sorted set: all executors of P with room, by the same |
/// | `warm:P:J` | sorted set: executors that hold caches of project J, by since when |
/// | `reserved:P` | hash: the executor of P that is kept free, for what, and until when |
/// | `waiters:P` | sorted set: allocators at which something waits for room in P, by when it was last tried |
/// | `waits:P:A` | hash: what finds no room in P at A, by kind: its best rank, when it was last tried, and since when others have waited for it |
/// | `woken:A` | list: pools in which there may be room for what waits at allocator A |
/// | `allocators` | sorted set: allocators by when they last told what waits at them |
/// | `demand:A` | hash: for each pool what waits at allocator A: CPU, memory and slots |
/// | `token` | the largest fencing token given out or seen |
/// | `nonce` | part of the name of each lease that this table has given out, and of no other's |
/// | `swept`, `grace` | when silent executors were last looked for; until when they are excused |
/// | `counted` | when it was last seen to that the counts are right |
package enum Scripts {
  /// Begins every script: `now`, the keys, and what several of them do.
  static let prelude = #"""
    local now = tonumber(ARGV[1])
    if not now then
      local time = redis.call('TIME')
      now = tonumber(time[1]) * 1000000 + tonumber(time[2])
    end

    local SEPARATOR = '\31'
    -- How long the end of a lease is remembered, in seconds: longer than any caller is away.
    local ENDED_MEMORY = 3600
    -- The same for one of this table that was given back, by whoever used it: there are thousands in a second, and
    -- an unknown lease of this table is over anyway.
    local RELEASED_MEMORY = 60
    -- How long a process that was taken out stays out, in seconds: its last calls are on the way.
    local GONE_MEMORY = 60
    -- For how long what finds no room is known after it was tried, in microseconds: longer than until it
    -- is tried again.
    local WAIT_MEMORY = 5000000
    -- For how long others wait for it: somewhat longer than an allocator that was not woken needs.
    local TURN = 1500000
    -- How many kinds of executors that left are remembered for a pool.
    local DEPARTED_KINDS = 1000

    -- Made dozens of times for each lease, so without a table in between.
    local function key(a, b, c, d)
      if not b then return 'millrace:' .. a end
      if not c then return 'millrace:' .. a .. ':' .. b end
      if not d then return 'millrace:' .. a .. ':' .. b .. ':' .. c end
      return 'millrace:' .. a .. ':' .. b .. ':' .. c .. ':' .. d
    end
    -- Lua's own conversion would write large numbers as 1.7e+15. What fits is written as an integer, which is
    -- quicker, and knows no "-0", which Redis does not take.
    local function whole(number)
      if number < 9e15 and number > -9e15 then return string.format('%d', number) end
      return string.format('%.0f', number)
    end

    local function split(text)
      local parts = {}
      for part in string.gmatch(text, '[^' .. SEPARATOR .. ']+') do parts[#parts + 1] = part end
      return parts
    end

    -- How the names of this table's leases begin. Of all others, given out before everything was
    -- lost, it knows nothing.
    local function lease_prefix(nonce) return 'lease-' .. nonce .. '-' end

    -- The index: executors with room, in sorted sets by powers of two of their free memory. Within
    -- one, the score is the free CPU, then the free memory, so that the first that fits is the
    -- tightest. Scores are exact: 29 bits of CPU above 24 bits of mebibytes.
    local function mebibytes(bytes) return math.floor(bytes / 1048576) end
    local function bucket_of(mib)
      local _, exponent = math.frexp(mib + 1)
      return exponent
    end

    -- Buckets that hold nothing any more are found by whoever looks into them.
    local function index_remove(id, pool, labels, bucket)
      redis.call('ZREM', key('free', pool, bucket, '*'), id)
      redis.call('ZREM', key('free', pool, bucket, labels), id)
    end

    -- What the index and those who look for room know of an executor.
    local function place_of(id)
      return redis.call('HMGET', key('executor', id), 'pool', 'labels', 'free_cpu', 'free_memory',
        'free_slots', 'draining', 'suspect', 'bucket', 'address', 'heard')
    end

    -- Gives the executor room (takes it, where it is less than 0), and puts it where its free share
    -- belongs in the index, or takes it out. Answers its pool; nil if it is not known. `e` is its
    -- place, if that was just looked up; with `anew` nothing is taken to be in the index already.
    local function reindex(id, more_cpu, more_memory, more_slots, e, anew)
      local executor = key('executor', id)
      e = e or place_of(id)
      local pool, labels, old = e[1], e[2], e[8]
      if not pool then return nil end
      local cpu, memory, slots = tonumber(e[3]), tonumber(e[4]), tonumber(e[5])
      if more_cpu then
        cpu, memory, slots = cpu + more_cpu, memory + more_memory, slots + more_slots
      end
      local bucket = ''
      if e[6] == '0' and e[7] == '0' and cpu >= 0 and memory >= 0 and slots >= 1 then
        bucket = tostring(bucket_of(mebibytes(memory)))
      end
      if old ~= '' and old ~= bucket then index_remove(id, pool, labels, old) end
      if bucket ~= '' then
        local score = whole(cpu * 16777216 + mebibytes(memory))
        redis.call('ZADD', key('room', pool), score, id)
        redis.call('ZADD', key('free', pool, bucket, '*'), score, id)
        redis.call('ZADD', key('free', pool, bucket, labels), score, id)
        if old ~= bucket or anew then
          redis.call('SADD', key('buckets', pool, '*'), bucket)
          redis.call('SADD', key('buckets', pool, labels), bucket)
        end
      elseif old ~= '' then
        redis.call('ZREM', key('room', pool), id)
      end
      if more_cpu then
        redis.call('HSET', executor, 'free_cpu', whole(cpu), 'free_memory', whole(memory),
          'free_slots', whole(slots), 'bucket', bucket)
      elseif old ~= bucket then
        redis.call('HSET', executor, 'bucket', bucket)
      end
      return pool
    end

    -- Counts executors of one kind; `state` is r(eady), s(uspect) or d(raining).
    local function kind(state, cpu, memory, slots, labels)
      return table.concat({state, cpu, memory, slots, labels}, '|')
    end

    local function count_kind(pool, name, by)
      if redis.call('HINCRBY', key('groups', pool), name, by) == 0 then
        redis.call('HDEL', key('groups', pool), name)
      end
    end

    local function state_of(draining, suspect)
      if suspect == '1' then return 's' end
      if draining == '1' then return 'd' end
      return 'r'
    end

    -- Its kind as it is stored.
    local function kind_of(id)
      local e = redis.call('HMGET', key('executor', id), 'draining', 'suspect', 'cpu', 'memory',
        'slots', 'labels', 'pool')
      if not e[7] then return nil end
      return kind(state_of(e[1], e[2]), e[3], e[4], e[5], e[6]), e[7]
    end

    -- Silent for too long to be given work.
    local function suspect(id)
      local old, pool = kind_of(id)
      if not old or string.sub(old, 1, 1) == 's' then return end
      redis.call('HSET', key('executor', id), 'suspect', '1')
      count_kind(pool, old, -1)
      count_kind(pool, 's' .. string.sub(old, 2), 1)
      reindex(id)
    end

    -- Ends a lease, and remembers why. Answers what was ended, and the share that whoever asks has to give
    -- back.
    local function end_lease(lease, cause, message, memory)
      local l = redis.call('HMGET', key('lease', lease), 'executor', 'request', 'cpu', 'memory',
        'slots')
      local id, request = l[1], l[2]
      if not id then return nil end
      redis.call('DEL', key('lease', lease))
      redis.call('SREM', key('held', id), lease)
      redis.call('ZREM', key('due'), lease)
      if redis.call('GET', key('request', request)) == lease then
        redis.call('DEL', key('request', request))
      end
      redis.call('SET', key('ended', lease), cause .. SEPARATOR .. message, 'EX', memory or ENDED_MEMORY)
      return {lease, request, id, cause, message}, tonumber(l[3]), tonumber(l[4]), tonumber(l[5])
    end

    -- Writes a lease down. Its share is to be taken by `reindex`.
    local function begin_lease(id, lease, request, project, token, cpu, memory, slots)
      redis.call('HSET', key('lease', lease), 'executor', id, 'request', request, 'project',
        project, 'token', whole(token), 'cpu', whole(cpu), 'memory', whole(memory), 'slots',
        whole(slots))
      redis.call('SADD', key('held', id), lease)
    end

    -- Forgets an executor; its leases end. Answers them.
    local function remove_executor(id, cause, message)
      local ended = {}
      local executor = key('executor', id)
      for _, lease in ipairs(redis.call('SMEMBERS', key('held', id))) do
        local done = end_lease(lease, cause, message)
        if done then ended[#ended + 1] = done end
      end
      local name, pool = kind_of(id)
      if name then
        local e = redis.call('HMGET', executor, 'labels', 'bucket', 'warm')
        if e[2] ~= '' then
          index_remove(id, pool, e[1], e[2])
          redis.call('ZREM', key('room', pool), id)
        end
        count_kind(pool, name, -1)
        redis.call('ZADD', key('departed', pool), whole(now), 'r' .. string.sub(name, 2))
        redis.call('ZREMRANGEBYRANK', key('departed', pool), 0, -1 - DEPARTED_KINDS)
        if redis.call('HINCRBY', key('classes', pool), e[1], -1) == 0 then
          redis.call('HDEL', key('classes', pool), e[1])
          -- An older allocator lets an executor have a label that is the name of the index of all.
          if e[1] ~= '*' then redis.call('DEL', key('buckets', pool, e[1])) end
        end
        if redis.call('HINCRBY', key('pool', pool), 'count', -1) == 0 then
          redis.call('DEL', key('pool', pool), key('buckets', pool, '*'))
          redis.call('SREM', key('pools'), pool)
        end
        for _, project in ipairs(split(e[3] or '')) do
          redis.call('ZREM', key('warm', pool, project), id)
        end
      end
      redis.call('DEL', executor, key('held', id))
      redis.call('ZREM', key('executors'), id)
      redis.call('ZREM', key('names'), id)
      return ended, pool
    end

    -- Tells another allocator that it may find room in the pool; it waits at the list.
    local function wake(replica, pool)
      local list = key('woken', replica)
      if redis.call('RPUSH', list, pool) > 100 then redis.call('LPOP', list) end
      redis.call('EXPIRE', list, 10)
    end

    -- The other allocators at which something waits for room in the pool, and whether something does at
    -- `own`. Those that have not tried for long are forgotten, and those that did in times to come, by a clock
    -- that has gone back since.
    local function rivals_in(pool, own)
      local rivals, has_own = {}, false
      local waiters = redis.call('ZRANGE', key('waiters', pool), 0, -1, 'WITHSCORES')
      for i = 1, #waiters, 2 do
        local replica, tried = waiters[i], tonumber(waiters[i + 1])
        if now - tried > WAIT_MEMORY or tried > now then
          redis.call('ZREM', key('waiters', pool), replica)
        elseif replica == own then
          has_own = true
        else
          rivals[#rivals + 1] = replica
        end
      end
      return rivals, has_own
    end

    -- The rank of what waits, when it was tried, and since when it was waited for (0: it is not); nil if that
    -- is too old, or in times to come.
    local function wait_of(text)
      local rank, tried, asked = string.match(text, '^(%S+) (%S+) (%S+)$')
      rank, tried, asked = tonumber(rank), tonumber(tried), tonumber(asked)
      if now - tried > WAIT_MEMORY or tried > now then return nil end
      return rank, tried, asked
    end

    -- Whether executors are excused for their silence. A time further ahead than it can have been set
    -- was set by a clock that has gone back since.
    local function has_grace(lost_after)
      local grace = tonumber(redis.call('GET', key('grace')) or '0')
      return now < grace and grace <= now + lost_after
    end

    -- Whether nobody looked after the table lately: silence then says nothing of executors.
    local function unattended(gap)
      local swept = tonumber(redis.call('GET', key('swept')))
      return not swept or now - swept > gap
    end

    """# + "\n"

  /// Every script, for what is kept of each.
  static let all = [
    acquire, release, heartbeat, deregister, sweep, survey, check, usage, demand, list,
  ]

  static func script(_ name: String, _ body: String) -> RedisScript {
    RedisScript(name: name, source: self.prelude + body)
  }
}
