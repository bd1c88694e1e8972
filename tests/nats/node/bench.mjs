// Measures a server through a client for node: `bench.mjs MODULE URL one-way SIZE COUNT`, or with
// `round-trip`. Prints received messages a second, or the median and the 99th percentile of a
// request in nanoseconds.

const [module, url, mode, size, count] = process.argv.slice(2);
const nats = await import(module);
const payload = new Uint8Array(Number(size)).fill(120);
const wanted = Number(count);
// Messages after which the publisher lets the socket take what it has.
const BURST = 1000;
const WARM_UP = 200;

const connect = () => nats.connect({ servers: url });

async function oneWay() {
  const [publisher, subscriber] = [await connect(), await connect()];
  let heard = 0;
  let done;
  const all = new Promise((resolve) => { done = resolve; });
  subscriber.subscribe("bench", { callback: () => { if (++heard === wanted) done(); } });
  await subscriber.flush();
  const start = process.hrtime.bigint();
  for (let sent = 0; sent < wanted; sent += BURST) {
    for (let more = 0; more < BURST; more++) publisher.publish("bench", payload);
    await publisher.flush();
  }
  await all;
  console.log(Math.round(wanted / (Number(process.hrtime.bigint() - start) / 1e9)));
}

async function roundTrip() {
  const [client, responder] = [await connect(), await connect()];
  responder.subscribe("bench", { callback: (_, message) => message.respond(message.data) });
  await responder.flush();
  const times = [];
  for (let number = 0; number < WARM_UP + wanted; number++) {
    const start = process.hrtime.bigint();
    await client.request("bench", payload, { timeout: 10_000 });
    if (number >= WARM_UP) times.push(Number(process.hrtime.bigint() - start));
  }
  times.sort((a, b) => a - b);
  console.log(times[Math.floor(wanted / 2)], times[Math.floor(wanted * 99 / 100)]);
}

await { "one-way": oneWay, "round-trip": roundTrip }[mode]();
process.exit(0);
