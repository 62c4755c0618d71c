"use strict";
// Looks for news every two seconds, and puts them in place of what is shown: what was open stays open, and the page where it was.
const state = document.getElementById("state");
const PAUSE = 2000;
let version = document.body.dataset.version;

function say(text, kind) {
  if (state.textContent !== text) state.textContent = text;
  state.className = kind;
}

function tellWhetherItRuns() {
  const running = document.querySelector("main .running") !== null;
  say(running ? "Live: this page follows the run." : "The run has ended. This page goes on should it be resumed.", running ? "live" : "ended");
}

function show(html) {
  const main = document.querySelector("main");
  const next = new DOMParser().parseFromString(html, "text/html").querySelector("main");
  if (!next) return;
  for (const open of main.querySelectorAll("details[open]")) {
    const same = next.querySelector(`details[id="${CSS.escape(open.id)}"]`);
    if (same) same.open = true;
  }
  const aside = Array.from(main.querySelectorAll(".scroll"), (box) => box.scrollLeft);
  const focused = document.activeElement?.closest?.("details")?.id;
  const [x, y] = [window.scrollX, window.scrollY];
  main.replaceWith(next);
  next.querySelectorAll(".scroll").forEach((box, i) => { box.scrollLeft = aside[i] ?? 0; });
  window.scrollTo(x, y);
  if (focused) next.querySelector(`details[id="${CSS.escape(focused)}"] > summary`)?.focus({ preventScroll: true });
}

async function look() {
  try {
    const answer = await fetch(`/contents?version=${encodeURIComponent(version)}`);
    if (answer.status === 200) {
      show(await answer.text());
      version = answer.headers.get("x-version");
      tellWhetherItRuns();
    } else if (answer.status === 204) {
      tellWhetherItRuns();
    } else {
      const error = await answer.json().catch(() => null);
      say(`The run cannot be read now: ${error?.error?.message ?? answer.status}`, "wrong");
    }
  } catch {
    say("The server has ended. This page stays as it is; start rlhf report --live again to go on.", "wrong");
  }
  setTimeout(look, document.hidden ? 5 * PAUSE : PAUSE);
}

tellWhetherItRuns();
setTimeout(look, PAUSE);
