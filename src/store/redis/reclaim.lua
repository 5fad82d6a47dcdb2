-- Removes a value if it is still the one that was judged, told by its checksum (bytes 8 to 15): what has been
-- stored since is not swept away with it.
if redis.call('GETRANGE', KEYS[1], 8, 15) == ARGV[1] then
  return redis.call('UNLINK', KEYS[1])
end
return 0
