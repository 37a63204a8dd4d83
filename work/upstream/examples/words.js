// Work for Ringback with nothing but Node.js.
//
// WORK_SECRET=whsec_… node words.js 9000     WORK_URL=http://127.0.0.1:9000/ make run
const { createHmac, timingSafeEqual } = require('node:crypto')
const { createServer } = require('node:http')

const keys = process.env.WORK_SECRET.split(',').map((secret) => Buffer.from(secret.trim().slice('whsec_'.length), 'base64'))
const done = new Map() // by Idempotency-Key; in earnest, a table in which the result commits with what the work changes

function verified(headers, body) {
  const { 'webhook-id': id, 'webhook-timestamp': sent, 'webhook-signature': signatures = '' } = headers
  if (!(Math.abs(Date.now() / 1000 - Number(sent)) <= 300)) return false
  const wanted = keys.map((key) => 'v1,' + createHmac('sha256', key).update(`${id}.${sent}.`).update(body).digest('base64'))
  const equal = (a, b) => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b))
  return wanted.some((want) => signatures.split(' ').some((got) => equal(want, got)))
}

function work({ headers }, body) {
  if (!verified(headers, body)) return [401, { title: 'The signature is missing or wrong.' }]
  const text = JSON.parse(body)?.text
  if (typeof text !== 'string') return [422, { title: 'No text.', detail: 'text must be a string.' }]
  const key = headers['idempotency-key']
  if (!done.has(key)) done.set(key, { words: text.split(/\s+/).filter(Boolean).length, attempt: Number(headers['ringback-attempt']) })
  return [200, done.get(key)]
}

const server = createServer(async (request, response) => {
  const chunks = []
  for await (const chunk of request) chunks.push(chunk)
  const [status, content] = work(request, Buffer.concat(chunks))
  response.writeHead(status, { 'Content-Type': status === 200 ? 'application/json' : 'application/problem+json' })
  response.end(JSON.stringify(content))
})
server.listen(Number(process.argv[2] ?? 9000), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/`))
