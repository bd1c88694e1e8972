// What a client for node sees of the server: `scripts.mjs MODULE OPTIONS [PATTERN]`. MODULE is `nats`
// or `@nats-io/transport-node`. OPTIONS are those with which the server was started, `default` or
// `small`; each test asks for one of them. The server is at NATS_URL, and obeys NATS_CONTROL.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

const [module, options, pattern = ""] = process.argv.slice(2);
const nats = await import(module);
const PATIENCE_MS = 60_000;
const CROWD = 1000;
const tests = [];
const test = (name, body, wanted = "default") => tests.push({ name, body, wanted });

const bytes = (text) => new TextEncoder().encode(text);
const text = (message) => new TextDecoder().decode(message.data);
let opened = [];

async function connect(more = {}) {
  const client = await nats.connect({
    servers: process.env.NATS_URL,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 100,
    ...more,
  });
  opened.push(client);
  return client;
}

async function control(order) {
  const answer = await fetch(`${process.env.NATS_CONTROL}/${order}`, { method: "POST" });
  assert.equal(answer.status, 204);
}

// The next messages of a subscription.
async function take(subscription, count) {
  const messages = [];
  if (count === 0) return messages;
  for await (const message of subscription) {
    messages.push(message);
    if (messages.length === count) break;
  }
  return messages;
}

// A subscription whose messages are gathered, and can be waited for.
function gather(client, subject, more = {}) {
  const heard = [];
  const subscription = client.subscribe(subject, {
    ...more,
    callback: (error, message) => {
      assert.ifError(error);
      heard.push(message);
    },
  });
  return { heard, subscription };
}

async function until(isSo) {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 10));
}

// Waits for a status of the client by its type.
async function status(client, type) {
  for await (const found of client.status()) {
    if (found.type === type) return found;
  }
  throw new Error(`the client closed before ${type}`);
}

const isNoResponder = (error) =>
  error.code === "503" || error.isNoResponders?.() || error instanceof (nats.errors?.NoRespondersError ?? class {});

function answerIn(client, subject, more = {}) {
  return client.subscribe(subject, {
    ...more,
    callback: (error, message) => {
      assert.ifError(error);
      message.respond(bytes(text(message).toUpperCase()));
    },
  });
}

test("publish and subscribe", async () => {
  const [sender, receiver] = [await connect(), await connect()];
  const { heard } = gather(receiver, "a.b");
  await receiver.flush();
  const sent = [bytes("hello"), bytes(""), bytes("\r\n"), bytes("PING\r\n"), randomBytes(100_000)];
  for (const body of sent) sender.publish("a.b", body);
  sender.publish("a.b", bytes("asks"), { reply: "answers.here" });
  await until(() => heard.length === sent.length + 1);
  sent.forEach((body, at) => assert.deepEqual(Buffer.from(heard[at].data), Buffer.from(body)));
  assert.equal(heard.at(-1).reply, "answers.here");
});

test("order of ten thousand", async () => {
  const [sender, receiver] = [await connect(), await connect()];
  const { heard } = gather(receiver, "numbers");
  await receiver.flush();
  for (let number = 0; number < 10_000; number++) sender.publish("numbers", bytes(`${number}`));
  await until(() => heard.length === 10_000);
  heard.forEach((message, number) => assert.equal(text(message), `${number}`));
});

test("wildcards", async () => {
  const client = await connect();
  const wanted = {
    "a.*": ["a.b", "a.c"], "a.>": ["a.b", "a.c", "a.b.c"], "*.b": ["a.b", "b.b"], "a.b": ["a.b"],
    ">": ["a", "a.b", "a.c", "a.b.c", "b.b"], "*": ["a"], "*.*.*": ["a.b.c"], "a.*.c": ["a.b.c"],
  };
  const heard = Object.fromEntries(Object.keys(wanted).map((filter) => [filter, gather(client, filter).heard]));
  for (const subject of ["a", "a.b", "a.c", "a.b.c", "b.b"]) client.publish(subject, bytes(""));
  await client.flush();
  for (const [filter, subjects] of Object.entries(wanted)) {
    assert.deepEqual(heard[filter].map((message) => message.subject), subjects, filter);
  }
});

test("queue groups", async () => {
  const sender = await connect();
  const members = [await connect(), await connect(), await connect()];
  const first = members.map((member) => gather(member, "work", { queue: "first" }).heard);
  const second = members.slice(1).map((member) => gather(member, "work", { queue: "second" }).heard);
  const alone = gather(members[0], "work").heard;
  await Promise.all(members.map((member) => member.flush()));
  for (let number = 0; number < 300; number++) sender.publish("work", bytes(`${number}`));
  for (const group of [first, second, [alone]]) {
    await until(() => group.flat().length === 300);
    assert.ok(group.every((heard) => heard.length > 0), "each member has its share");
    assert.equal(new Set(group.flat().map(text)).size, 300);
  }
});

test("requests", async () => {
  const responder = await connect();
  answerIn(responder, "shout");
  await responder.flush();
  const client = await connect();
  for (const noMux of [false, true]) {
    const reply = await client.request("shout", bytes("hello"), { timeout: PATIENCE_MS, noMux });
    assert.equal(text(reply), "HELLO");
  }
  const ask = (number) => client.request("shout", bytes(`n${number}`), { timeout: PATIENCE_MS });
  const replies = await Promise.all([...Array(500).keys()].map(ask));
  replies.forEach((reply, number) => assert.equal(text(reply), `N${number}`));
});

test("requests to a group", async () => {
  const [client, responder] = [await connect(), await connect()];
  for (let member = 0; member < 3; member++) answerIn(responder, "shout", { queue: "q" });
  await responder.flush();
  const ask = (number) => client.request("shout", bytes(`n${number}`), { timeout: PATIENCE_MS });
  const replies = await Promise.all([...Array(200).keys()].map(ask));
  replies.forEach((reply, number) => assert.equal(text(reply), `N${number}`));
});

test("several answers", async () => {
  const [client, responder] = [await connect(), await connect()];
  for (let member = 0; member < 3; member++) answerIn(responder, "shout");
  await responder.flush();
  const answers = await client.requestMany("shout", bytes("x"), { strategy: "count", maxMessages: 3, maxWait: PATIENCE_MS });
  const heard = [];
  for await (const answer of answers) heard.push(text(answer));
  assert.deepEqual(heard, ["X", "X", "X"]);
});

test("no responders", async () => {
  const client = await connect();
  for (const noMux of [false, true]) {
    await assert.rejects(client.request("nobody.there", bytes(""), { timeout: PATIENCE_MS, noMux }), isNoResponder);
  }
  const responder = answerIn(client, "nobody.there");
  assert.equal(text(await client.request("nobody.there", bytes("x"), { timeout: PATIENCE_MS })), "X");
  responder.unsubscribe();
  await assert.rejects(client.request("nobody.there", bytes(""), { timeout: PATIENCE_MS }), isNoResponder);
});

test("headers", async () => {
  const [sender, receiver] = [await connect(), await connect()];
  const { heard } = gather(receiver, "a");
  await receiver.flush();
  const headers = nats.headers();
  headers.append("Key", "first");
  headers.append("Key", "second");
  headers.append("key", "lower");
  headers.append("empty", "");
  headers.append("long", "v".repeat(10_000));
  sender.publish("a", bytes("body"), { headers });
  sender.publish("a", bytes(""), { headers });
  sender.publish("a", bytes("none"));
  await until(() => heard.length === 3);
  for (const message of heard.slice(0, 2)) {
    assert.deepEqual(message.headers.values("Key", "exact" in nats ? nats.exact : undefined).slice(0, 2), ["first", "second"]);
    assert.equal(message.headers.get("long").length, 10_000);
    assert.equal(message.headers.get("empty"), "");
  }
  assert.equal(text(heard[0]), "body");
  assert.equal(heard[2].headers, undefined);
});

test("headers of a status", async () => {
  const client = await connect();
  const { heard } = gather(client, "a");
  const headers = nats.headers(408, "Request Timeout");
  client.publish("a", bytes(""), { headers });
  await until(() => heard.length === 1);
  assert.equal(heard[0].headers.code, 408);
  assert.equal(heard[0].headers.description, "Request Timeout");
});

test("unsubscribe after so many", async () => {
  const [sender, receiver] = [await connect(), await connect()];
  const limited = gather(receiver, "a", { max: 3 });
  const { heard } = gather(receiver, "a");
  await receiver.flush();
  for (let number = 0; number < 5; number++) sender.publish("a", bytes(`${number}`));
  await until(() => heard.length === 5);
  assert.deepEqual(limited.heard.map(text), ["0", "1", "2"]);
  assert.ok(limited.subscription.isClosed());
  const before = receiver.stats().inMsgs;
  sender.publish("a", bytes("x"));
  await until(() => heard.length === 6);
  assert.equal(receiver.stats().inMsgs, before + 1, "the server has forgotten the first");
});

test("drain", async () => {
  const [sender, receiver] = [await connect(), await connect()];
  const first = gather(receiver, "a");
  const second = gather(receiver, "b");
  await receiver.flush();
  for (let number = 0; number < 1000; number++) sender.publish("a", bytes(`${number}`));
  await sender.flush();
  await until(() => first.heard.length > 0);
  await first.subscription.drain();
  first.heard.forEach((message, number) => assert.equal(text(message), `${number}`));
  for (let number = 0; number < 1000; number++) sender.publish("b", bytes(`${number}`));
  await until(() => second.heard.length > 0);
  await receiver.drain();
  second.heard.forEach((message, number) => assert.equal(text(message), `${number}`));
  assert.ok(receiver.isClosed() && !sender.isClosed());
});

test("no echo", async () => {
  const [client, other] = [await connect({ noEcho: true }), await connect()];
  const [own, theirs] = [gather(client, "a").heard, gather(other, "a").heard];
  await Promise.all([client.flush(), other.flush()]);
  client.publish("a", bytes("own"));
  await until(() => theirs.length === 1);
  other.publish("a", bytes("other"));
  await until(() => own.length > 0);
  assert.deepEqual(own.map(text), ["other"]);
});

test("verbose and pedantic", async () => {
  const client = await connect({ verbose: true, pedantic: true });
  const { heard } = gather(client, "a");
  client.publish("a", bytes("x"));
  await until(() => heard.length === 1);
});

test("max_payload", async () => {
  const client = await connect();
  assert.equal(client.info.max_payload, 1024);
  const { heard } = gather(client, "a");
  client.publish("a", new Uint8Array(1024));
  await until(() => heard.length === 1);
  assert.throws(() => client.publish("a", new Uint8Array(1025)));
}, "small");

test("largest payload", async () => {
  const client = await connect();
  const { heard } = gather(client, "a");
  const body = randomBytes(client.info.max_payload);
  client.publish("a", body);
  await until(() => heard.length === 1);
  assert.deepEqual(Buffer.from(heard[0].data), body);
});

test("INFO", async () => {
  const { info } = await connect();
  assert.ok(info.headers && info.proto === 1 && info.max_payload === 1 << 20, JSON.stringify(info));
  assert.match(info.version, /^\d+\.\d+\.\d+/);
  assert.ok(info.client_id > 0 && info.server_id);
});

test("round trip", async () => {
  const client = await connect();
  assert.ok((await client.rtt()) >= 0);
});

async function survives(harm) {
  const client = await connect();
  const plain = gather(client, "a.>").heard;
  const grouped = gather(client, "a.b", { queue: "q" }).heard;
  answerIn(client, "shout");
  client.publish("a.b", bytes("before"));
  await until(() => plain.length === 1 && grouped.length === 1);
  const [lost, back] = [status(client, "disconnect"), status(client, "reconnect")];
  await control(harm);
  await lost;
  await back;
  client.publish("a.b", bytes("after"));
  const all = ["before", "after"];
  await until(() => plain.length === 2 && grouped.length === 2);
  assert.deepEqual([plain.map(text), grouped.map(text)], [all, all]);
  assert.equal(text(await client.request("shout", bytes("x"), { timeout: PATIENCE_MS })), "X");
}

test("reconnect after the death of a worker", () => survives("kill-worker"));

test("reconnect after a restart", () => survives("restart"));

test("a crowd reconnects at once", async () => {
  const clients = [];
  // Not all at once: the first connection is tried only once.
  while (clients.length < CROWD) clients.push(...await Promise.all([...Array(50)].map(() => connect())));
  const heard = clients.map((client) => gather(client, "everyone").heard);
  const back = clients.map((client) => status(client, "reconnect"));
  await Promise.all(clients.map((client) => client.flush()));
  await control("kill-worker");
  await Promise.all(back);
  await Promise.all(clients.map((client) => client.flush()));
  clients[0].publish("everyone", bytes("x"));
  await until(() => heard.every((messages) => messages.length === 1));
});

test("a call of JetStream ends by 503", async () => {
  const client = await connect();
  await assert.rejects(client.request("$JS.API.INFO", bytes(""), { timeout: PATIENCE_MS }), isNoResponder);
});

// The last one, for the server ends.
test("zz the end is told before", async () => {
  const client = await connect({ reconnect: false });
  const told = status(client, "ldm");
  await control("drain");
  await told;
});

async function passes({ name, body }) {
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error("watchdog")), 2 * PATIENCE_MS).unref();
  });
  try {
    await Promise.race([body(), late]);
    return true;
  } catch (error) {
    console.error(name, error);
    return false;
  } finally {
    await Promise.all(opened.map((client) => client.close()));
    opened = [];
  }
}

const chosen = tests.filter(({ name, wanted }) => name.includes(pattern) && wanted === options);
let failed = 0;
for (const chosenTest of chosen) {
  const passed = await passes(chosenTest);
  failed += passed ? 0 : 1;
  console.log(`  ${passed ? "ok    " : "FAILED"} ${module} ${chosenTest.name}`);
}
console.log(`${module}, ${options}: ${chosen.length - failed} of ${chosen.length} passed`);
process.exit(failed ? 1 : 0);
