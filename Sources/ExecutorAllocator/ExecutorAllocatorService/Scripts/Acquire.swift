import RedisClient

extension Scripts {
  /// Leases for a batch of demands of one pool, in their order.
  ///
  /// Arguments: now, suspect after, grant expiry, smallest token, pool, reservation expiry, the
  /// table's nonce if it has none, the allocator, then for each demand: request, project, number of its
  /// shape in the batch, CPU, memory, slots, labels (joined), executors to avoid (joined), 1 if one is to
  /// be kept free for it, rank. Answers for each demand a lease, or 0: no room, or none before another
  /// allocator's demand of the same kind and a smaller rank.
  package static let acquire = script(
    "acquire",
    #"""
    local suspect_after, grant_expiry = tonumber(ARGV[2]), tonumber(ARGV[3])
    local floor, pool = tonumber(ARGV[4]), ARGV[5]
    local reservation_expiry = tonumber(ARGV[6])
    -- The nonce, the token, and what each request has already: the answer to an earlier call may have
    -- been lost.
    local facts = {key('nonce'), key('token')}
    for i = 9, #ARGV, 10 do facts[#facts + 1] = key('request', ARGV[i]) end
    facts = redis.call('MGET', unpack(facts))
    local nonce = facts[1]
    if not nonce then
      nonce = ARGV[7]
      redis.call('SET', key('nonce'), nonce)
    end
    local token = math.max(tonumber(facts[2] or '0'), floor)

    -- How many executors that hold caches of the project are looked at, and how many with room are
    -- compared: a preference, not worth more of everybody's time.
    local WARM_CANDIDATES, WARM_FITS = 8, 3
    -- The first executor that the index gives fits most often.
    local FIRST_PAGE, PAGE = 2, 16

    local classes_of = {}
    -- The label sets that hold all of `labels`: all executors in one, when there is nothing to ask.
    local function matching_classes(joined)
      if joined == '' then return {'*'} end
      if classes_of[joined] then return classes_of[joined] end
      local wanted, found = split(joined), {}
      for _, class in ipairs(redis.call('HKEYS', key('classes', pool))) do
        local has = {}
        for _, label in ipairs(split(class)) do has[label] = true end
        local all = true
        for _, label in ipairs(wanted) do all = all and has[label] end
        if all then found[#found + 1] = class end
      end
      classes_of[joined] = found
      return found
    end

    -- The executor that is kept free in this pool, and for demands of which kind: large ones that
    -- waited too long while small ones took every share.
    local reserved, reserved_for
    do
      local r = redis.call('HMGET', key('reserved', pool), 'executor', 'for', 'until')
      if r[1] and now <= tonumber(r[3]) then reserved, reserved_for = r[1], r[2] end
    end
    local function allowed(id, d, avoid)
      return not avoid[id] and (id ~= reserved or d.kind == reserved_for)
    end

    -- The executor's place if it has the room, exactly; the index knows memory in mebibytes only, and
    -- not that an executor has fallen silent since. Else nil, and whether it is gone from the index: it has,
    -- or of where it was found (`members`, of `bucket`) it knows nothing, having been lost meanwhile.
    local function with_room(id, d, members, bucket)
      local e = place_of(id)
      if members and (e[1] ~= pool or e[8] ~= bucket) then
        redis.call('ZREM', members, id)
        return nil, true
      end
      if not e[1] or e[8] == '' then return nil end
      if tonumber(e[3]) < d.cpu or tonumber(e[4]) < d.memory or tonumber(e[5]) < d.slots then
        return nil
      end
      -- An older allocator tells the sorted set alone.
      if now - tonumber(e[10] or '0') > suspect_after
        and now - tonumber(redis.call('ZSCORE', key('executors'), id) or '0') > suspect_after then
        suspect(id)
        return nil, true
      end
      return e
    end

    -- The tightest executor and its place: least free CPU that fits, then least free memory.
    local function find(d, avoid)
      local best, best_score, best_place
      for _, class in ipairs(matching_classes(d.labels)) do
        for _, bucket in ipairs(redis.call('SMEMBERS', key('buckets', pool, class))) do
          if tonumber(bucket) >= d.bucket then
            local members = key('free', pool, bucket, class)
            -- Where the search goes on: at this score, behind so many that have it.
            local from, behind, over = d.cpu * 16777216 + d.mib, 0, false
            local count = FIRST_PAGE
            while not over do
              local page = redis.call('ZRANGEBYSCORE', members, whole(from), '+inf',
                'WITHSCORES', 'LIMIT', behind, count)
              if #page == 0 and behind == 0 and redis.call('EXISTS', members) == 0 then
                redis.call('SREM', key('buckets', pool, class), bucket)
              end
              over = #page < 2 * count
              count = PAGE
              for i = 1, #page, 2 do
                local id, score = page[i], tonumber(page[i + 1])
                if best and (score > best_score or (score == best_score and id >= best)) then
                  over = true
                  break
                end
                local mib = score % 16777216
                if mib < d.mib then
                  -- None of the same free CPU and as little memory: past them all in one step.
                  from, behind, over = score - mib + d.mib, 0, false
                  break
                end
                local removed = false
                if allowed(id, d, avoid) then
                  local place, is_gone = with_room(id, d, members, bucket)
                  removed = is_gone
                  if place then
                    best, best_score, best_place, over = id, score, place, true
                    break
                  end
                end
                if score > from then from, behind = score, 0 end
                if not removed then behind = behind + 1 end
              end
            end
          end
        end
      end
      return best, best_place
    end

    local function labels_match(labels, joined)
      if joined == '' then return true end
      for _, class in ipairs(matching_classes(joined)) do
        if class == labels then return true end
      end
      return false
    end

    -- Of the executors that hold caches of the project, the tightest, and its place.
    local function find_warm(d, avoid)
      local warm = redis.call('ZREVRANGE', key('warm', pool, d.project), 0, WARM_CANDIDATES - 1)
      if #warm == 0 then return nil end
      local best, best_score, best_place
      local count = 0
      -- Most have no room, and are told from the others in one look.
      local scores = redis.call('ZMSCORE', key('room', pool), unpack(warm))
      for i, id in ipairs(warm) do
        local score = tonumber(scores[i] or '-1')
        if score >= d.cpu * 16777216 and score % 16777216 >= d.mib
          and not (best and score >= best_score) and allowed(id, d, avoid) then
          local place = with_room(id, d)
          if place and labels_match(place[2], d.labels) then
            count = count + 1
            best, best_score, best_place = id, score, place
            if count == WARM_FITS then break end
          end
        end
      end
      return best, best_place
    end

    -- Whether the executor could meet the demand once it is free.
    local function could_hold(id, d, avoid)
      local e = redis.call('HMGET', key('executor', id), 'pool', 'draining', 'suspect', 'cpu',
        'memory', 'slots', 'labels')
      return e[1] == pool and e[2] == '0' and e[3] == '0' and not avoid[id]
        and tonumber(e[4]) >= d.cpu and tonumber(e[5]) >= d.memory and tonumber(e[6]) >= d.slots
        and labels_match(e[7], d.labels)
    end

    -- Of the executors that could hold the demand, one that has most room already. Only the first
    -- few of each part of the index are looked at: next time others may be in front.
    local function roomiest(d, avoid)
      local best, best_score
      for _, class in ipairs(matching_classes(d.labels)) do
        for _, bucket in ipairs(redis.call('SMEMBERS', key('buckets', pool, class))) do
          local page = redis.call('ZREVRANGE', key('free', pool, bucket, class), 0, PAGE - 1,
            'WITHSCORES')
          for i = 1, #page, 2 do
            local id, score = page[i], tonumber(page[i + 1])
            local roomier = not best or score > best_score or (score == best_score and id < best)
            if roomier and could_hold(id, d, avoid) then best, best_score = id, score end
          end
        end
      end
      return best
    end

    -- Keeps an executor free for demands of this kind. One in a pool at a time, so that most of it
    -- goes on as before; it ends when the demand has its lease, or is not tried any more.
    local function reserve(d, avoid)
      if reserved and reserved_for ~= d.kind then return end
      if not reserved or not could_hold(reserved, d, avoid) then
        reserved, reserved_for = roomiest(d, avoid), d.kind
      end
      if reserved then
        redis.call('HSET', key('reserved', pool), 'executor', reserved, 'for', d.kind, 'until',
          whole(now + reservation_expiry))
        redis.call('EXPIRE', key('reserved', pool), 60)
      end
    end

    local function end_reservation(d)
      if reserved and reserved_for == d.kind then
        redis.call('DEL', key('reserved', pool))
        reserved = nil
      end
    end

    -- Whether the only executors that could ever meet the demand are those to avoid.
    local function only_avoided_match(d, avoid)
      local function matches(name)
        local state, cpu, memory, slots, labels = string.match(name,
          '^(%a)|(%d+)|(%d+)|(%d+)|(.*)$')
        if state == 'd' or tonumber(cpu) < d.cpu or tonumber(memory) < d.memory
          or tonumber(slots) < d.slots then return false end
        if d.labels == '' then return true end
        for _, class in ipairs(matching_classes(d.labels)) do
          if class == labels then return true end
        end
        return false
      end
      local all, groups = 0, redis.call('HGETALL', key('groups', pool))
      for i = 1, #groups, 2 do
        if matches(groups[i]) then all = all + tonumber(groups[i + 1]) end
      end
      for id in pairs(avoid) do
        local name, its_pool = kind_of(id)
        if name and its_pool == pool and matches(name) then all = all - 1 end
      end
      return all <= 0
    end

    local function lease_reply(lease, id, address, token, d, expires)
      return {lease, id, address, whole(token), whole(d.cpu), whole(d.memory), whole(d.slots),
        whole(expires)}
    end

    -- The lease that a request already has, if it still holds.
    local function existing(lease)
      local l = redis.call('HMGET', key('lease', lease), 'executor', 'token', 'cpu', 'memory',
        'slots')
      if not l[1] then return nil end
      local expires = now + grant_expiry
      redis.call('ZADD', key('due'), 'XX', whole(expires), lease)
      local address = redis.call('HGET', key('executor', l[1]), 'address')
      return lease_reply(lease, l[1], address, tonumber(l[2]),
        {cpu = tonumber(l[3]), memory = tonumber(l[4]), slots = tonumber(l[5])}, expires)
    end

    -- What demands that wait for each other's room have in common.
    local function kind_at(i)
      return table.concat({ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]}, '|')
    end

    -- By kind, the best that waits at another allocator. Thousands of kinds may wait there, and here: only
    -- those of the batch are looked at.
    local replica, best = ARGV[8], {}
    local own_waits = key('waits', pool, replica)
    local rivals, waited = rivals_in(pool, replica)
    if #rivals > 0 then
      local kinds, is_known = {}, {}
      for i = 9, #ARGV, 10 do
        local kind = kind_at(i)
        if not is_known[kind] then kinds[#kinds + 1] = kind end
        is_known[kind] = true
      end
      for _, who in ipairs(rivals) do
        local waits = key('waits', pool, who)
        for place, text in ipairs(redis.call('HMGET', waits, unpack(kinds))) do
          if text then
            local kind = kinds[place]
            local rank, tried, asked = wait_of(text)
            local b = best[kind]
            -- Too old, or it had its turn, and did not take it.
            if not rank or (asked > 0 and now - asked > TURN) then
              redis.call('HDEL', waits, kind)
            elseif not b or rank < b.rank or (rank == b.rank and who < b.replica) then
              best[kind] = {replica = who, rank = rank, tried = tried, asked = asked}
            end
          end
        end
      end
    end

    -- Whether the room is another's; then that one is told, and has a while to take it.
    local function comes_behind(d)
      local b = best[d.kind]
      if not b or b.rank >= d.rank then return false end
      if b.asked == 0 then
        redis.call('HSET', key('waits', pool, b.replica), d.kind,
          table.concat({whole(b.rank), whole(b.tried), whole(now)}, ' '))
      end
      wake(b.replica, pool)
      return true
    end

    -- What of the batch waits from now on, by kind; and whether something waits no more.
    local waiting, has_ended = {}, false
    local function waits(d) waiting[d.kind] = table.concat({whole(d.rank), whole(now), '0'}, ' ') end
    local function waits_no_more(d)
      waiting[d.kind] = nil
      if waited and redis.call('HDEL', own_waits, d.kind) == 1 then has_ended = true end
    end

    -- Writes that down.
    local function note_waits()
      local fields = {}
      for kind, text in pairs(waiting) do
        fields[#fields + 1] = kind
        fields[#fields + 1] = text
      end
      if #fields > 0 then
        redis.call('HSET', own_waits, unpack(fields))
        redis.call('EXPIRE', own_waits, 60)
        redis.call('ZADD', key('waiters', pool), whole(now), replica)
        redis.call('EXPIRE', key('waiters', pool), 60)
        -- What is too old counts as gone. So that it takes no room either, twice as many as were written are
        -- looked at, wherever they are: then about half of all are too old at most.
        local some = redis.call('HRANDFIELD', own_waits, #fields, 'WITHVALUES')
        for i = 1, #some, 2 do
          if not wait_of(some[i + 1]) then redis.call('HDEL', own_waits, some[i]) end
        end
      elseif has_ended and redis.call('EXISTS', own_waits) == 0 then
        redis.call('ZREM', key('waiters', pool), replica)
      end
    end

    local replies, full, given, all_have_room = {}, {}, {}, true
    for i = 9, #ARGV, 10 do
      local d = {request = ARGV[i], project = ARGV[i + 1], shape = ARGV[i + 2],
        cpu = tonumber(ARGV[i + 3]), memory = tonumber(ARGV[i + 4]),
        slots = tonumber(ARGV[i + 5]), labels = ARGV[i + 6], rank = tonumber(ARGV[i + 9])}
      d.mib = mebibytes(d.memory)
      d.bucket = bucket_of(d.mib)
      d.kind = kind_at(i)
      local has = given[d.request] or facts[3 + (i - 9) / 10]
      local reply = has and existing(has)
      if not reply and not full[d.shape] then
        local avoid, avoids = {}, false
        for _, id in ipairs(split(ARGV[i + 7])) do avoid[id], avoids = true, true end
        local id, place = find(d, avoid)
        if not id and avoids and only_avoided_match(d, avoid) then
          avoid = {}
          id, place = find(d, avoid)
        end
        local is_behind = id and comes_behind(d)
        if id and not is_behind then
          local warm, its_place = find_warm(d, avoid)
          if warm then id, place = warm, its_place end
          token = math.max(token + 1, now)
          local lease, expires = lease_prefix(nonce) .. whole(token), now + grant_expiry
          begin_lease(id, lease, d.request, d.project, token, d.cpu, d.memory, d.slots)
          redis.call('SET', key('request', d.request), lease)
          redis.call('ZADD', key('due'), whole(expires), lease)
          redis.call('SET', key('token'), whole(token))
          reindex(id, -d.cpu, -d.memory, -d.slots, place)
          given[d.request] = lease
          end_reservation(d)
          waits_no_more(d)
          reply = lease_reply(lease, id, place[9], token, d, expires)
        else
          if ARGV[i + 8] == '1' and not is_behind then reserve(d, avoid) end
          -- What avoids executors may wait where others would find room.
          if not avoids then waits(d) end
          full[d.shape], all_have_room = true, false
        end
      end
      replies[#replies + 1] = reply or 0
    end
    note_waits()
    -- There may be room for those who waited for these.
    if all_have_room then
      for _, who in ipairs(rivals) do wake(who, pool) end
    end
    return replies
    """#)

  /// Gives leases back. Arguments: now, the allocator, then the leases. Answers the pools that have room
  /// now; other allocators with demands that wait there are told.
  package static let release = script(
    "release",
    #"""
    -- Each executor finds its new place in the index once, however many of its leases end.
    local executors, shares = {}, {}
    local nonce = redis.call('GET', key('nonce'))
    local prefix = nonce and lease_prefix(nonce)
    for i = 3, #ARGV do
      local lease = ARGV[i]
      local is_ours = prefix and string.sub(lease, 1, #prefix) == prefix
      local ended, cpu, memory, slots = end_lease(lease, 'released', 'its scheduler gave it back',
        is_ours and RELEASED_MEMORY)
      if ended then
        local id = ended[3]
        local share = shares[id]
        if not share then
          share = {0, 0, 0}
          shares[id] = share
          executors[#executors + 1] = id
        end
        share[1], share[2], share[3] = share[1] + cpu, share[2] + memory, share[3] + slots
      else
        -- Unknown after the table was lost, perhaps: a runner that reports it must not bring it
        -- back.
        redis.call('SET', key('ended', lease), 'released' .. SEPARATOR
          .. 'its scheduler gave it back', 'EX', ENDED_MEMORY, 'NX')
      end
    end
    local pools, known = {}, {}
    for _, id in ipairs(executors) do
      local pool = reindex(id, unpack(shares[id]))
      if pool and not known[pool] then
        known[pool] = true
        pools[#pools + 1] = pool
      end
    end
    for _, pool in ipairs(pools) do
      for _, who in ipairs((rivals_in(pool, ARGV[2]))) do wake(who, pool) end
    end
    return pools
    """#)
}
