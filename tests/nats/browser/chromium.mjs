// Chromium without a window, driven by the DevTools protocol over a pipe: no port, no library.

import { spawn } from "node:child_process";

/** Starts it with a profile of its own. */
export class Chromium {
  #process;
  #number = 0;
  #answers = new Map();
  #received = "";

  constructor(program, profile) {
    const options = [
      "--headless", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "--no-first-run",
      "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
      // Certificates of the test's own CA.
      "--ignore-certificate-errors",
    ];
    // Its sandbox refuses to work for root, and the pages are our own.
    if (process.getuid() === 0) options.push("--no-sandbox");
    const stdio = ["ignore", "ignore", "ignore", "pipe", "pipe"];
    this.#process = spawn(program, options, { stdio });
    this.#process.stdio[4].setEncoding("utf8").on("data", (text) => this.#receive(text));
    this.#process.on("exit", () => this.#fail(new Error("chromium has ended")));
    this.#process.on("error", (error) => this.#fail(error));
  }

  /** Opens a page, and returns a function that evaluates an expression there. */
  async open(url) {
    const { targetId } = await this.#call("Target.createTarget", { url });
    const { sessionId } = await this.#call("Target.attachToTarget", { targetId, flatten: true });
    return async (expression) => {
      const parameters = { expression, awaitPromise: true, returnByValue: true };
      const answer = await this.#call("Runtime.evaluate", parameters, sessionId);
      if (answer.exceptionDetails) throw new Error(JSON.stringify(answer.exceptionDetails));
      return answer.result.value;
    };
  }

  stop() {
    this.#process.kill("SIGKILL");
  }

  #call(method, params, sessionId) {
    const id = ++this.#number;
    this.#process.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return new Promise((resolve, reject) => this.#answers.set(id, { resolve, reject }));
  }

  #receive(text) {
    const messages = (this.#received + text).split("\0");
    this.#received = messages.pop();
    for (const { id, result, error } of messages.map((message) => JSON.parse(message))) {
      const waiting = this.#answers.get(id);
      this.#answers.delete(id);
      error ? waiting?.reject(new Error(error.message)) : waiting?.resolve(result);
    }
  }

  #fail(error) {
    for (const { reject } of this.#answers.values()) reject(error);
    this.#answers.clear();
  }
}
