-- Numbers flow through coroutines as water through a mill race.
local function source(last)
  return coroutine.wrap(function()
    for number = 2, last do coroutine.yield(number) end
  end)
end

local function sieve(numbers)
  return coroutine.wrap(function()
    while true do
      local prime = numbers()
      if not prime then return end
      coroutine.yield(prime)
      local upstream = numbers
      numbers = coroutine.wrap(function()
        for number in upstream do
          if number % prime ~= 0 then coroutine.yield(number) end
        end
      end)
    end
  end)
end

local primes = {}
for prime in sieve(source(60)) do primes[#primes + 1] = prime end
assert(#primes == 17)
print(table.concat(primes, " "))
