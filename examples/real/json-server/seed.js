// Writes the db.json that json-server serves: 100 users, 2,000 posts, 8,000 comments. The same file every time.
//
//   node seed.js FILE
'use strict';

const fs = require('fs');

// A small generator of our own (mulberry32): Math.random cannot be seeded.
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const next = random(42);
const below = (n) => Math.floor(next() * n);
const words = ('river gate lock mill stone water bank reed heron bridge barge towpath sluice weir pool ford '
  + 'current eddy ripple spring source delta shore boat rope oar net otter willow alder').split(' ');
const sentence = (length) => Array.from({ length }, () => words[below(words.length)]).join(' ');

const users = Array.from({ length: 100 }, (_, i) => ({
  id: i + 1, name: sentence(2), email: `user${i + 1}@example.com`,
}));
const posts = Array.from({ length: 2000 }, (_, i) => ({
  id: i + 1, userId: 1 + below(100), title: sentence(5), body: sentence(40), version: 0,
}));
const comments = Array.from({ length: 8000 }, (_, i) => ({
  id: i + 1, postId: 1 + below(2000), userId: 1 + below(100), body: sentence(15),
}));

fs.writeFileSync(process.argv[2], JSON.stringify({ users, posts, comments }, null, 1));
