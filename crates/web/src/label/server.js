// Requests to the server, one after another. While it does not answer they are kept and sent again.

let last = Promise.resolve();

/** An answer that says no, in the words of the server. */
export class Refused extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/**
 * Sends `body` to `path` after everything that was sent before; what is answered. `lost` is called with true when the server does
 * not answer, and with false when it does again.
 */
export function ask(path, body, lost) {
  const mine = last.then(() => persist(path, body, lost));
  last = mine.catch(() => {});
  return mine;
}

async function persist(path, body, lost) {
  for (let wait = 250, failed = false; ; wait = Math.min(wait * 2, 4000)) {
    let answer;
    try {
      answer = await fetch(path, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(30_000),
      });
      const value = answer.ok ? await answer.json() : await answer.json().catch(() => null);
      if (failed) lost(false);
      if (answer.ok) return value;
      throw new Refused(value?.error.message ?? `The server answers ${answer.status} to ${path}.`, value?.error.code);
    } catch (error) {
      if (error instanceof Refused) throw error;
      failed = true;
      lost(true);
      await new Promise((go) => setTimeout(go, wait));
    }
  }
}
