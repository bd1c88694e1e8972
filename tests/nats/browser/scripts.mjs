// The page of docs/guide/browser.md in a real browser, and `ipcctl chat`, in one conversation.
//
//   node scripts.mjs NATS_CORE_JS CHROMIUM IPCD IPCCTL [PATTERN]
//
// Each script prints `ok` or `FAILED`. The exit status is 1 if one has failed.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Chromium } from "./chromium.mjs";

const [bundle, chromium, ipcd, ipcctl, pattern = ""] = process.argv.slice(2);
const PATIENCE_MS = Number(process.env.PATIENCE_MS ?? 60_000);
const guide = new URL("../../../docs/guide/browser.md", import.meta.url);

/** The pages of the guide, in their order. */
const pages = [...readFileSync(guide, "utf8").matchAll(/^```html\n(.*?)^```$/gms)].map((m) => m[1]);
assert.equal(pages.length, 2, "the guide has two pages");

const dir = mkdtempSync(join(tmpdir(), "ipcd-browser-"));
const children = [];

function start(program, args) {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"] });
  for (const stream of ["stdout", "stderr"]) {
    child[`${stream}Text`] = "";
    child[stream].setEncoding("utf8").on("data", (text) => (child[`${stream}Text`] += text));
  }
  children.push(child);
  return child;
}

/** Waits until a look returns something. */
async function eventually(what, look) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not after a minute`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Serves the guide's pages as /lines.html and /chat.html. */
async function serve() {
  const files = {
    "/lines.html": ["text/html", pages[0]],
    "/chat.html": ["text/html", pages[1]],
    "/nats-core.js": ["text/javascript", readFileSync(bundle)],
  };
  const server = createServer((request, response) => {
    const [type, body] = files[request.url.split("?")[0]] ?? ["text/plain", ""];
    response.writeHead(body ? 200 : 404, { "Content-Type": type }).end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

/** Issues a certificate for the daemon. */
function certificate() {
  const [cert, key] = [join(dir, "cert.pem"), join(dir, "key.pem")];
  const options = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2",
    "-keyout", key, "-out", cert];
  execFileSync("openssl", options, { stdio: "ignore" });
  return `cert=${cert}&key=${key}`;
}

/** Starts the daemon, and returns the addresses of these listeners. */
async function daemon(listeners) {
  const endpoints = [`unix:${dir}/ipcd.sock`, ...listeners];
  const child = start(ipcd, ["--runtime-dir", dir, ...endpoints.flatMap((at) => ["-l", at])]);
  await eventually("the daemon", () => {
    assert.equal(child.exitCode, null, child.stderrText);
    return child.stderrText.includes("ready");
  });
  const found = [...child.stderrText.matchAll(/endpoint=(wss?:\/\/[0-9.:]+)/g)].map((m) => m[1]);
  assert.equal(found.length, listeners.length);
  return { found, log: () => child.stderrText };
}

/** `ipcctl chat`, once it is subscribed. */
async function chat(subject) {
  const child = start(ipcctl, ["--runtime-dir", dir, "--name", `${subject}-keyboard`, "chat", subject]);
  await eventually("the chat", () => {
    const subscriptions = execFileSync(ipcctl, ["--runtime-dir", dir, "subs"], { encoding: "utf8" });
    return subscriptions.includes(`${subject}-keyboard`);
  });
  return child;
}

/** A page of the guide, connected to an address, as its user sees it. */
async function visit(browser, url, at) {
  const evaluate = await browser.open(`${url}?at=${encodeURIComponent(at)}`);
  const text = (id) => evaluate(`document.querySelector("#${id}")?.innerText ?? ""`);
  return {
    evaluate,
    text,
    async state(wanted) {
      let found;
      await eventually(`${url}: ${wanted}`, async () => (found = await text("state")).match(wanted))
        .catch((error) => {
          throw new Error(`${error.message}; it is ${JSON.stringify(found)}`);
        });
    },
    hears: (line) => eventually(`${url}: ${line}`, async () => (await text("heard")).split("\n").includes(line)),
    say: (line) => evaluate(`document.querySelector("#say").value = ${JSON.stringify(line)},
      document.querySelector("#form").requestSubmit()`),
  };
}

/** A line each way, and ten in a row. */
async function converse(page, subject) {
  const keyboard = await chat(subject);
  await page.state(/^connected$/);
  keyboard.stdin.write("hello, page\n");
  await page.hears("hello, page");
  await page.say("hello, keyboard: ä€😀");
  const hears = (line) =>
    eventually(`the chat: ${line}`, () => keyboard.stdoutText.includes(`: ${line}\n`));
  await hears("hello, keyboard: ä€😀");
  for (let n = 0; n < 10; n++) await page.say(`line ${n}`);
  await hears("line 9");
  const order = [...keyboard.stdoutText.matchAll(/: line (\d)\n/g)].map((m) => m[1]).join("");
  assert.equal(order, "0123456789");
  assert.ok(!(await page.text("heard")).includes("line"), "the page hears itself");
  keyboard.stdin.end();
}

const web = await serve();
const port = web.address().port;
const [here, elsewhere] = [`http://127.0.0.1:${port}`, `http://localhost:${port}`];
const bus = await daemon([
  "ws://127.0.0.1:0?codec=nats",
  "ws://127.0.0.1:0?codec=line&subject=lines&reply=lines",
  `ws://127.0.0.1:0?codec=nats&origin=${elsewhere}`,
  `wss://127.0.0.1:0?codec=nats&${certificate()}`,
]);
const [nats, lines, listed, encrypted] = bus.found;
const browser = new Chromium(chromium, join(dir, "profile"));

const scripts = {
  async "a page with the client of NATS and a chat hear each other"() {
    await converse(await visit(browser, `${here}/chat.html`, nats), "room");
  },
  async "a page without any library and a chat hear each other"() {
    await converse(await visit(browser, `${here}/lines.html`, lines), "lines");
  },
  async "a page is served over TLS"() {
    await converse(await visit(browser, `${here}/chat.html`, encrypted), "room");
  },
  async "a page of another origin is refused"() {
    const before = bus.log().length;
    const page = await visit(browser, `${elsewhere}/chat.html`, nats);
    await page.state(/^not connected/);
    const said = `HTTP 403: pages of this origin may not connect: the listener's origin= names those`;
    await eventually("the log", () => bus.log().slice(before).includes(said));
    assert.match(bus.log(), new RegExp(`\\(${elsewhere} to 127.0.0.1:`));
  },
  async "a page whose origin is listed is admitted, and no other"() {
    const page = await visit(browser, `${elsewhere}/chat.html`, listed);
    await converse(page, "room");
    await (await visit(browser, `${here}/chat.html`, listed)).state(/^not connected/);
  },
  async "a terminal asks, and a page answers"() {
    const page = await visit(browser, `${here}/chat.html`, nats);
    await page.state(/^connected$/);
    await page.evaluate(`nats.subscribe("upper", {
      callback: (error, message) => message.respond(message.string().toUpperCase()),
    }), nats.flush()`);
    const ask = ["--runtime-dir", dir, "req", "upper", "hello"];
    assert.equal(execFileSync(ipcctl, ask, { encoding: "utf8" }), "HELLO\n");
    const silent = `nats.request("no.one").then((m) => m.string(), (e) => e.message)`;
    assert.match(await page.evaluate(silent), /no responders/i);
  },
  async "a page asks, and a program answers"() {
    start(ipcctl, ["--runtime-dir", dir, "serve", "shout", "--", "tr", "a-z", "A-Z"]);
    const page = await visit(browser, `${here}/chat.html`, nats);
    await page.state(/^connected$/);
    const asked = `nats.request("shout", "hello").then((m) => m.string(), (e) => e.message)`;
    let answer;
    await eventually("an answer", async () => (answer = await page.evaluate(asked)) === "HELLO")
      .catch((error) => assert.fail(`${error.message}; it is ${JSON.stringify(answer)}`));
  },
  async "a large message passes from page to page"() {
    const [from, to] = await Promise.all([1, 2].map(() => visit(browser, `${here}/chat.html`, nats)));
    await Promise.all([from, to].map((page) => page.state(/^connected$/)));
    await to.evaluate(`(async () => {
      const large = nats.subscribe("large", { max: 1 });
      window.bytes = (async () => { for await (const message of large) return message.data; })();
      await nats.flush();
    })()`);
    await from.evaluate(`nats.publish("large", new Uint8Array(900_000).map((_, n) => n * 7))`);
    const isWhole = `bytes.then((data) => data.length === 900_000 && data.every((b, n) => b === (n * 7 & 255)))`;
    assert.equal(await to.evaluate(isWhole), true);
  },
  async "a page that closes says so"() {
    const page = await visit(browser, `${here}/chat.html`, nats);
    await page.state(/^connected$/);
    const before = bus.log().length;
    await page.evaluate(`window.nats.close()`);
    await eventually("the log", () => /peer gone .*transport=ws/.test(bus.log().slice(before)));
  },
};

const chosen = Object.entries(scripts).filter(([name]) => name.includes(pattern));
let failed = 0;
for (const [name, script] of chosen) {
  try {
    await script();
    console.log(`  ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`  FAILED ${name}: ${error.stack}`);
  }
}
console.log(`browser: ${chosen.length - failed} of ${chosen.length} passed`);
if (failed) console.log(bus.log().split("\n").slice(-40).join("\n"));
browser.stop();
for (const child of children) child.kill("SIGKILL");
web.close();
rmSync(dir, { recursive: true, force: true });
process.exit(failed ? 1 : 0);
