#!/usr/bin/env node
// Runs the caching tests of http-tests/cache-tests through Weir and compares what came of them with what is expected.
//
//   node tests/conformance/run.mjs                    the npm release of the suite (installed on the first run), memory store
//     --redis                                         the same with Redis alone: no memory, a redis-server of its own
//     --suite DIR                                     another copy of the suite, such as a clone of its repository
//     --weir FILE                                     the binary; else $WEIR_BIN, else target/release/weir
//     --install                                       only installs it
//     --expected FILE                                 else expected-<version>.json here; --update writes it
//     --markdown                                      prints the tables of docs/conformance.md
//
// A verdict that differs from the expected one counts when it does so in three runs: the suite waits for seconds of real
// time, and a machine under load may miss one. Exit status 0: all as expected; 1: not; 2: it could not be run.

import { spawn, execFileSync } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const here = path.dirname(fileURLToPath(import.meta.url))
const RUNS = 3

function fail (why) {
  console.error(`conformance: ${why}`)
  process.exit(2)
}

const { values: given } = parseArgs({
  options: {
    redis: { type: 'boolean' },
    suite: { type: 'string' },
    weir: { type: 'string' },
    expected: { type: 'string' },
    update: { type: 'boolean' },
    markdown: { type: 'boolean' },
    install: { type: 'boolean' }
  }
})

// ── The suite ────────────────────────────────────────────────────────────────────────────────────────────────────

function installed () {
  const into = path.join(process.env.WEIR_REAL_DIR ?? path.join(here, '../../examples/real/.work'), 'conformance')
  const suite = path.join(into, 'node_modules/http-cache-tests')
  const lock = fs.readFileSync(path.join(here, 'package-lock.json'), 'utf8')
  const stamp = path.join(into, 'stamp')
  if (!fs.existsSync(stamp) || fs.readFileSync(stamp, 'utf8') !== lock) {
    fs.rmSync(into, { recursive: true, force: true })
    fs.mkdirSync(into, { recursive: true })
    for (const file of ['package.json', 'package-lock.json']) fs.copyFileSync(path.join(here, file), path.join(into, file))
    execFileSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: into, stdio: ['ignore', 2, 2] })
    fs.writeFileSync(stamp, lock)
  }
  return suite
}

const suite = path.resolve(given.suite ?? installed())
if (given.install) process.exit(0)
const inSuite = (...names) => names.map(name => path.join(suite, name)).find(fs.existsSync) ?? fail(`${suite} is no copy of the suite`)
const version = given.suite ? revision() : JSON.parse(fs.readFileSync(path.join(suite, 'package.json'))).version
const expectedFile = given.expected ?? path.join(here, `expected-${version}.json`)

function revision () {
  try {
    return execFileSync('git', ['-C', suite, 'rev-parse', '--short=7', 'HEAD'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return given.expected ? 'unknown' : fail(`${suite} is no clone: say --expected FILE`)
  }
}

// What browsers alone are asked is left out.
const tests = new Map()
for (const group of (await import(pathToFileURL(inSuite('tests/index.mjs')))).default) {
  for (const test of group.tests.filter(test => !test.browser_only)) {
    tests.set(test.id, { ...test, kind: test.kind ?? 'required', group: group.id })
  }
}

// ── A run ────────────────────────────────────────────────────────────────────────────────────────────────────────

// Below the range from which outgoing connections get theirs.
async function freePort () {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const server = net.createServer()
    const free = await new Promise(resolve => {
      server.once('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
    })
    if (free) return port
  }
}

async function answers (port) {
  for (let tries = 0; tries < 400; tries++) {
    const up = await new Promise(resolve => {
      const socket = net.connect(port, '127.0.0.1')
      socket.once('connect', () => { socket.destroy(); resolve(true) })
      socket.once('error', () => resolve(false))
    })
    if (up) return
    await sleep(50)
  }
  throw new Error(`nothing listens on port ${port}`)
}

// What the suite assumes and a careful proxy does not do unasked: whatever is said to be fresh is kept (cookies and server
// errors too), credentials count as RFC 9111 says, a stale answer may stand in for a failure.
const config = (listen, admin, origin, redis) => `
listen = "127.0.0.1:${listen}"
upstream = "http://127.0.0.1:${origin}"
[admin]
listen = "127.0.0.1:${admin}"
[log]
level = "warn"
[defaults]
cache = "rfc"
credentials = "rfc"
store_set_cookie = true
store_errors = true
stale_if_error = "1h"
${redis ? `[cache]\nmemory = "0"\n[redis]\nurl = "redis://127.0.0.1:${redis}/1"\n` : ''}`

async function run () {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'conformance-'))
  const running = []
  const start = (command, args, options = {}) => {
    const log = fs.openSync(path.join(dir, `${running.length}.log`), 'w')
    const child = spawn(command, args, { stdio: ['ignore', log, log], ...options })
    child.once('error', error => fail(`${command}: ${error.message}`))
    running.push(child)
    return child
  }
  const [origin, listen, admin, redis] = [await freePort(), await freePort(), await freePort(), given.redis && await freePort()]
  try {
    const env = { ...process.env, NODE_OPTIONS: `--import ${pathToFileURL(path.join(here, 'loopback.mjs'))}` }
    const settings = { npm_config_protocol: 'http', npm_config_port: origin, npm_config_pidfile: path.join(dir, 'pid') }
    start(process.execPath, [inSuite('test-engine/server/server.mjs', 'server/server.mjs')], { cwd: suite, env: { ...env, ...settings } })
    if (redis) {
      start('redis-server', ['--port', `${redis}`, '--bind', '127.0.0.1', '--save', '', '--dir', dir])
      await answers(redis)
    }
    fs.writeFileSync(path.join(dir, 'proxy.toml'), config(listen, admin, origin, redis))
    const weir = given.weir ?? process.env.WEIR_BIN ?? path.join(here, '../../target/release/weir')
    start(path.resolve(weir), ['run', '-c', path.join(dir, 'proxy.toml')])
    await Promise.all([answers(origin), answers(listen)])
    const out = path.join(dir, 'results.json')
    const client = start(process.execPath, ['--no-warnings', inSuite('test-engine/cli.mjs', 'cli.mjs')], {
      cwd: suite,
      env: { ...process.env, npm_config_base: `http://127.0.0.1:${listen}`, npm_config_id: '', npm_package_config_id: '' },
      stdio: ['ignore', fs.openSync(out, 'w'), 2]
    })
    const code = await new Promise(resolve => client.once('exit', resolve))
    if (code !== 0) fail(`the suite's client ended with ${code}`)
    return JSON.parse(fs.readFileSync(out, 'utf8'))
  } finally {
    for (const child of running) child.kill('SIGKILL')
    fs.rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  }
}

// As the suite judges: a test whose dependencies are not passed says nothing.
function verdict (results, id) {
  const { kind, depends_on: needs = [] } = tests.get(id) ?? {}
  const result = results[id]
  if (result === undefined) return 'untested'
  if (needs.some(other => !['pass', 'yes'].includes(verdict(results, other)))) return 'dependency'
  if (result === true) return kind === 'check' ? 'yes' : 'pass'
  if (result[0] === 'Setup') return 'setup'
  return kind === 'check' ? 'no' : kind === 'optimal' ? 'not optimal' : 'fail'
}

const judge = results => Object.fromEntries([...tests.keys()].map(id => [id, verdict(results, id)]))

// ── What came of it ──────────────────────────────────────────────────────────────────────────────────────────────

const expected = given.update ? undefined : JSON.parse(fs.readFileSync(expectedFile, 'utf8'))
const differing = verdicts => [...tests.keys()].filter(id => expected && verdicts[id] !== (expected[id] ?? 'pass'))

let results = await run()
let verdicts = judge(results)
let wrong = differing(verdicts)
for (let again = 1; again < RUNS && wrong.length; again++) {
  console.log(`run ${again}: ${wrong.map(id => `${id} (${verdicts[id]})`).join(', ')}; once more`)
  const next = await run()
  const still = new Set(differing(judge(next)))
  wrong = wrong.filter(id => still.has(id))
  if (!wrong.length) [results, verdicts] = [next, judge(next)]
}

if (given.update) {
  const others = Object.entries(verdicts).filter(([, v]) => v !== 'pass')
  fs.writeFileSync(expectedFile, JSON.stringify(Object.fromEntries(others), null, 2) + '\n')
}

const ofKind = kind => [...tests.values()].filter(test => test.kind === kind)
const count = (kind, ...which) => ofKind(kind).filter(({ id }) => which.includes(verdicts[id])).length
console.log(`cache-tests ${version}, ${given.redis ? 'Redis alone' : 'memory alone'}: ` +
  `required ${count('required', 'pass')} of ${ofKind('required').length} (${count('required', 'fail')} fail), ` +
  `optimal ${count('optimal', 'pass')} of ${ofKind('optimal').length}, ` +
  `checks: ${count('check', 'yes')} yes, ${count('check', 'no')} no, of ${ofKind('check').length}`)

if (given.markdown) {
  const why = id => Array.isArray(results[id]) ? results[id][1] : ''
  console.log('\n| test | verdict | |\n| --- | --- | --- |')
  for (const test of [...ofKind('required'), ...ofKind('optimal')].filter(({ id }) => verdicts[id] !== 'pass')) {
    console.log(`| \`${test.id}\` (${test.kind}) | ${verdicts[test.id]} | ${why(test.id)} |`)
  }
  console.log('\n| check | Weir |\n| --- | --- |')
  for (const test of ofKind('check')) console.log(`| ${test.name} | ${verdicts[test.id]} |`)
}

for (const id of wrong) {
  const result = results[id]
  console.log(`${tests.get(id).group}/${id}: ${verdicts[id]}, expected ${expected[id] ?? 'pass'}${Array.isArray(result) ? `: ${result[1]}` : ''}`)
}
process.exit(wrong.length ? 1 : 0)
